//! The address of the bus in the daemons' arguments: `nats://TOKEN@HOST:PORT`, several joined by
//! commas. async-nats takes the part before the `@` for a user; the token must be passed apart.

/// The token of the first address that has one.
pub fn token(url: &str) -> Option<&str> {
    url.split(',').find_map(|one| {
        let one = one.trim();
        let authority = one.split_once("://").map_or(one, |(_, rest)| rest);
        let (credentials, _) = authority.rsplit_once('@')?;
        (!credentials.is_empty() && !credentials.contains(':')).then_some(credentials)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_before_the_host() {
        for (url, found) in [
            ("nats://s3cret@10.0.0.1:4222", Some("s3cret")),
            ("s3cret@host", Some("s3cret")),
            ("nats://host:1, nats://t@b:5", Some("t")),
            ("nats://host:4222", None),
            ("nats://user:password@host", None),
        ] {
            assert_eq!(token(url), found, "{url}");
        }
    }
}
