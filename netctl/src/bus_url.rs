//! The address of the bus: `nats://TOKEN@HOST:PORT`, or several separated by commas.
//!
//! It is never shown whole, since it contains the token.

use std::str::FromStr;

use async_nats::{ConnectOptions, ServerAddr};

use crate::failure::Failure;

const DEFAULT_PORT: u16 = 4222;

/// The variable's value, if it is set.
pub(crate) fn of_environment() -> Option<String> {
    let set = std::env::var(bus_schema::url::VARIABLE).ok();
    set.filter(|it| !it.is_empty())
}

/// Parses an address that `source` has. The error doesn't repeat it.
pub(crate) fn parse(source: &str, text: &str) -> Result<BusUrl, Failure> {
    let url = text.parse();
    url.map_err(|error| Failure::Usage(format!("{source}: {error}")))
}

/// A text that may repeat typed addresses, without their tokens.
pub(crate) fn without_tokens(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        shown += before;
        shown += "://";
        let end = after.find([',', '\'', '"']).unwrap_or(after.len());
        let end = after
            .find(char::is_whitespace)
            .map_or(end, |it| it.min(end));
        let (address, then) = after.split_at(end);
        match address.rsplit_once('@') {
            Some((_, host)) => {
                shown += "***@";
                shown += host;
            }
            None => shown += address,
        }
        rest = then;
    }
    shown + rest
}

#[derive(Clone)]
pub(crate) struct BusUrl {
    pub(crate) servers: Vec<ServerAddr>,
    user: Option<String>,
    password: Option<String>,
    shown: String,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidBusUrl {
    #[error(
        "{0}:// is no scheme of the bus: --netmaster takes the address of nats-server, nats://TOKEN@HOST:{DEFAULT_PORT}"
    )]
    Scheme(String),
    #[error("not an address of a NATS server such as nats://TOKEN@HOST:{DEFAULT_PORT}")]
    Malformed,
}

impl BusUrl {
    pub(crate) fn options(&self) -> ConnectOptions {
        match (&self.user, &self.password) {
            (Some(user), Some(password)) => {
                ConnectOptions::with_user_and_password(user.clone(), password.clone())
            }
            (Some(token), None) => ConnectOptions::with_token(token.clone()),
            (None, _) => ConnectOptions::new(),
        }
    }
}

/// As it is displayed: without the token.
impl std::fmt::Debug for BusUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for BusUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

impl FromStr for BusUrl {
    type Err = InvalidBusUrl;

    fn from_str(text: &str) -> Result<Self, InvalidBusUrl> {
        let mut url = Self {
            servers: Vec::new(),
            user: None,
            password: None,
            shown: String::new(),
        };
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (scheme, rest) = part.split_once("://").unwrap_or(("nats", part));
            if !matches!(scheme, "nats" | "tls") {
                // It may be a part of a token.
                if !scheme.bytes().all(|it| it.is_ascii_lowercase()) {
                    return Err(InvalidBusUrl::Malformed);
                }
                return Err(InvalidBusUrl::Scheme(scheme.to_owned()));
            }
            let (credentials, host) = match rest.rsplit_once('@') {
                Some((credentials, host)) => (Some(credentials), host),
                None => (None, rest),
            };
            if let Some(credentials) = credentials {
                let (user, password) = match credentials.split_once(':') {
                    Some((user, password)) => (user, Some(password.to_owned())),
                    None => (credentials, None),
                };
                url.user = Some(user.to_owned());
                url.password = password;
            }
            let host = host.trim_end_matches('/');
            let server: ServerAddr = format!("{scheme}://{host}")
                .parse()
                .map_err(|_| InvalidBusUrl::Malformed)?;
            if host.is_empty() || server.host().is_empty() {
                return Err(InvalidBusUrl::Malformed);
            }
            if !url.shown.is_empty() {
                url.shown.push(',');
            }
            url.shown += &format!("{scheme}://{}:{}", server.host(), server.port());
            url.servers.push(server);
        }
        if url.servers.is_empty() {
            return Err(InvalidBusUrl::Malformed);
        }
        Ok(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_their_token() {
        for (typed, shown) in [
            ("nats://s3cret@10.0.0.1:4222", "nats://10.0.0.1:4222"),
            ("10.0.0.1", "nats://10.0.0.1:4222"),
            ("host:1", "nats://host:1"),
            ("nats://t@a,nats://t@b:5", "nats://a:4222,nats://b:5"),
        ] {
            let url: BusUrl = typed.parse().unwrap();
            assert_eq!(url.to_string(), shown);
        }
    }

    #[test]
    fn http_address_of_contiv_is_explained() {
        let error = "http://netmaster:9999".parse::<BusUrl>().unwrap_err();
        assert!(
            error.to_string().contains("nats://TOKEN@HOST:4222"),
            "{error}"
        );
        for bad in ["", ",", "nats://", "nats://t@", "nats://h:x"] {
            assert!(bad.parse::<BusUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn refusal_does_not_repeat_the_token() {
        for bad in ["nats://s3cret@:x", "s3cret@nats://h", "s3cret@h:x"] {
            let Err(error) = parse("--netmaster", bad) else {
                panic!("{bad} is an address");
            };
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
        let typed = "unexpected argument 'nats://s3cret@h:1,tls://t@b' found, nats://h";
        let shown = "unexpected argument 'nats://***@h:1,tls://***@b' found, nats://h";
        assert_eq!(without_tokens(typed), shown);
    }
}
