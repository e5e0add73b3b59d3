//! The address of the bus in the daemons' arguments: `nats://TOKEN@HOST:PORT`, several joined by
//! commas. async-nats takes the part before the `@` for a user; the token must be passed apart.

/// The proof of the right to use the bus.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Credentials<'a> {
    Token(&'a str),
    Password { user: &'a str, password: &'a str },
}

/// Without the secret.
impl std::fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

/// The credentials of the first address that has some.
pub fn credentials(url: &str) -> Option<Credentials<'_>> {
    url.split(',').find_map(|one| {
        let (credentials, _) = authority(one).1.rsplit_once('@')?;
        Some(match credentials.split_once(':') {
            Some((user, password)) => Credentials::Password { user, password },
            None if credentials.is_empty() => return None,
            None => Credentials::Token(credentials),
        })
    })
}

/// The addresses without credentials, for messages and for async-nats: it logs the addresses to which it
/// connects.
pub fn without_credentials(url: &str) -> String {
    let one = |one| {
        let (scheme, authority) = authority(one);
        let host = authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host);
        scheme.map_or(host.to_owned(), |scheme| format!("{scheme}://{host}"))
    };
    url.split(',').map(one).collect::<Vec<_>>().join(",")
}

/// The scheme, if it is written, and the rest of one address.
fn authority(one: &str) -> (Option<&str>, &str) {
    let one = one.trim();
    match one.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, one),
    }
}

/// The address in a file: its first line that is neither empty nor a comment (`#`). A line of a file of
/// variables for systemd, `CONTIV_NATS_URL=…`, is taken, too.
pub fn in_file(text: &str) -> Option<&str> {
    let mut lines = text.lines().map(str::trim);
    let line = lines.find(|line| !line.is_empty() && !line.starts_with('#'))?;
    let value = line
        .strip_prefix(VARIABLE)
        .and_then(|it| it.strip_prefix('='));
    Some(value.map_or(line, |value| value.trim_matches(['"', '\''])))
}

/// The variable that holds the address.
pub const VARIABLE: &str = "CONTIV_NATS_URL";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_before_the_host() {
        let token = Credentials::Token;
        for (url, found, without) in [
            (
                "nats://s3cret@10.0.0.1:4222",
                Some(token("s3cret")),
                "nats://10.0.0.1:4222",
            ),
            ("s3cret@host", Some(token("s3cret")), "host"),
            (
                "nats://host:1, tls://t@b:5",
                Some(token("t")),
                "nats://host:1,tls://b:5",
            ),
            ("nats://host:4222", None, "nats://host:4222"),
            (
                "nats://user:pass@host",
                Some(Credentials::Password {
                    user: "user",
                    password: "pass",
                }),
                "nats://host",
            ),
        ] {
            assert_eq!(credentials(url), found, "{url}");
            assert_eq!(without_credentials(url), without);
        }
    }

    #[test]
    fn file_has_the_address_or_the_variable() {
        for (text, address) in [
            ("nats://t@h:4222\n", Some("nats://t@h:4222")),
            (
                "# the bus\n\n  nats://t@h:4222  \n",
                Some("nats://t@h:4222"),
            ),
            ("CONTIV_NATS_URL=nats://t@h:4222\n", Some("nats://t@h:4222")),
            (
                "CONTIV_NATS_URL='nats://t@h:4222'\n",
                Some("nats://t@h:4222"),
            ),
            ("# none\n", None),
        ] {
            assert_eq!(in_file(text), address, "{text:?}");
        }
    }
}
