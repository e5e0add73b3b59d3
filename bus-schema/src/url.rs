//! The address of the bus in the daemons' arguments: `nats://TOKEN@HOST:PORT`, several joined by
//! commas. async-nats takes the part before the `@` for a user; the token must be passed apart.

use std::path::PathBuf;

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

/// The address in a file. In a file of variables, for systemd or a shell, it is the value of
/// `CONTIV_NATS_URL`, wherever that stands; else it is the first line that is neither empty, nor a comment
/// (`#`), nor another variable.
pub fn in_file(text: &str) -> Option<&str> {
    let lines = || text.lines().map(str::trim);
    let of_variable = lines().find_map(|line| {
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        line.strip_prefix(VARIABLE)?.strip_prefix('=')
    });
    match of_variable {
        Some(value) => Some(value.trim_matches(['"', '\''])),
        None => lines().find(|it| !it.is_empty() && !it.starts_with('#') && !is_variable(it)),
    }
}

/// Whether a line has the form `NAME=…`, with or without `export`.
fn is_variable(line: &str) -> bool {
    let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
    let name = line.split_once('=').map(|(name, _)| name);
    let is_word = |it: char| it.is_ascii_alphanumeric() || it == '_';
    name.is_some_and(|name| !name.is_empty() && name.chars().all(is_word))
}

/// The variable that holds the address.
pub const VARIABLE: &str = "CONTIV_NATS_URL";
/// The variable that names a file with the address.
pub const FILE_VARIABLE: &str = "CONTIV_NATS_FILE";

/// The place of a daemon's address of the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressSource {
    Url(String),
    File(PathBuf),
}

/// Chooses the place of the address: a flag wins over a variable, and a file over an address.
/// `variable` reads a variable; an empty one counts as absent. `None`: no place is named.
pub fn address_source(
    url: Option<String>,
    file: Option<PathBuf>,
    variable: impl Fn(&str) -> Option<String>,
) -> Option<AddressSource> {
    let set = |name: &str| variable(name).filter(|it| !it.is_empty());
    let typed = file
        .map(AddressSource::File)
        .or(url.map(AddressSource::Url));
    typed
        .or_else(|| set(FILE_VARIABLE).map(|path| AddressSource::File(path.into())))
        .or_else(|| set(VARIABLE).map(AddressSource::Url))
}

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
            (
                "RUST_LOG=info\nexport CONTIV_NATS_URL=\"nats://t@h:4222\"\n",
                Some("nats://t@h:4222"),
            ),
            (
                "CONTIV_NATS_HOST=h\nnats://t@h:4222\n",
                Some("nats://t@h:4222"),
            ),
            ("# none\n", None),
            ("CONTIV_NATS_TOKEN=t\nexport A=b\n", None),
        ] {
            assert_eq!(in_file(text), address, "{text:?}");
        }
    }

    #[test]
    fn flags_win_over_variables_and_files_over_addresses() {
        let url = |it: &str| Some(AddressSource::Url(it.to_owned()));
        let file = |it: &str| Some(AddressSource::File(it.into()));
        let both = |name: &str| Some(format!("/{name}"));
        let typed = || Some("nats://h".to_owned());
        assert_eq!(address_source(typed(), None, both), url("nats://h"));
        assert_eq!(address_source(None, Some("/f".into()), both), file("/f"));
        assert_eq!(address_source(None, None, both), file("/CONTIV_NATS_FILE"));
        let empty = |name: &str| Some(if name == VARIABLE { "u" } else { "" }.to_owned());
        assert_eq!(address_source(None, None, empty), url("u"));
        assert_eq!(address_source(None, None, |_| None), None);
    }
}
