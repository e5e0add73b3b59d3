//! The limits of names and messages. They bound the memory that one user, or one node, takes from every
//! node. A writer is refused beyond them; a reader ignores the rest, and says so.

use crate::EndpointEvent;
use crate::codec::{self, Malformed};

/// An endpoint has at most so many names beside its own.
pub const MAX_ALIASES: usize = 64;
/// The longest name in bytes of UTF-8, and the longest label of one (RFC 1035 §2.3.4: 255 octets with the
/// lengths of the labels, 63 octets).
pub const MAX_NAME_LENGTH: usize = 253;
pub const MAX_LABEL_LENGTH: usize = 63;
/// The longest request to netmaster in bytes. The events of a command are about as long as the command.
pub const MAX_REQUEST_BYTES: usize = 128 << 10;
/// The longest message of the stream `LOG` in bytes. Most events are about as long as their command, but
/// `log-accepted` lists the nodes that are ahead of a restored log: 90 bytes for each of up to 10,000. It
/// is no more than nats-server takes by default (`max_payload`; 8 MB in `nats.conf`).
pub const MAX_EVENT_BYTES: usize = 1 << 20;
/// The longest message of the stream `ENDPOINTS` in bytes: three times an endpoint with 64 aliases of 253
/// bytes.
pub const MAX_ENDPOINT_BYTES: usize = 48 << 10;

/// A name, or a number of names, beyond a limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameExcess {
    #[error("{count} aliases: an endpoint has at most {MAX_ALIASES}")]
    Aliases { count: usize },
    #[error("the name `{start}…` is {length} bytes long: a name has at most {MAX_NAME_LENGTH}")]
    Name { start: String, length: usize },
    #[error(
        "the name `{start}…` has a part of {length} bytes: a part between dots has at most {MAX_LABEL_LENGTH}"
    )]
    Label { start: String, length: usize },
}

/// Checks the names of a new endpoint.
pub fn check_names(name: Option<&str>, aliases: &[String]) -> Result<(), NameExcess> {
    let count = aliases.len();
    if count > MAX_ALIASES {
        return Err(NameExcess::Aliases { count });
    }
    let mut all = name.into_iter().chain(aliases.iter().map(String::as_str));
    all.try_for_each(check_name)
}

fn check_name(name: &str) -> Result<(), NameExcess> {
    // The start of a name that may have millions of characters.
    let start = |text: &str| text.chars().take(20).collect();
    let length = name.len();
    if length > MAX_NAME_LENGTH {
        let start = start(name);
        return Err(NameExcess::Name { start, length });
    }
    let length = name.split('.').map(str::len).max();
    let length = length.unwrap_or_default();
    match length > MAX_LABEL_LENGTH {
        true => Err(NameExcess::Label {
            start: start(name),
            length,
        }),
        false => Ok(()),
    }
}

/// The reason why a message of the stream `ENDPOINTS` isn't read.
#[derive(Debug, thiserror::Error)]
pub enum UnreadEndpoint {
    #[error("a message of {length} bytes: at most {MAX_ENDPOINT_BYTES} are read")]
    TooLong { length: usize },
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// Decodes a message of the stream `ENDPOINTS` without the names that exceed the limits, and returns the
/// first excess.
pub fn read_endpoint(
    payload: &[u8],
) -> Result<(EndpointEvent, Option<NameExcess>), UnreadEndpoint> {
    let length = payload.len();
    if length > MAX_ENDPOINT_BYTES {
        return Err(UnreadEndpoint::TooLong { length });
    }
    let mut event = codec::from_bytes(payload)?;
    let excess = match &mut event {
        EndpointEvent::Up { endpoint, .. } => {
            limit_names(&mut endpoint.name, &mut endpoint.aliases)
        }
        EndpointEvent::Down { .. } | EndpointEvent::Healed { .. } | EndpointEvent::Unknown => None,
    };
    Ok((event, excess))
}

/// Removes an endpoint's names beyond the limits, and returns the first excess. The own name is only
/// shortened to nothing where it is longer than any name: people know the container by it.
pub fn limit_names(name: &mut Option<String>, aliases: &mut Vec<String>) -> Option<NameExcess> {
    let count = aliases.len();
    let mut excess = (count > MAX_ALIASES).then_some(NameExcess::Aliases { count });
    aliases.truncate(MAX_ALIASES);
    aliases.retain(|alias| match check_name(alias) {
        Ok(()) => true,
        Err(why) => {
            excess.get_or_insert(why);
            false
        }
    });
    if let Some(Err(why @ NameExcess::Name { .. })) = name.as_deref().map(check_name) {
        excess.get_or_insert(why);
        *name = None;
    }
    excess
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_refused_beyond_their_limits() {
        let label = "a".repeat(63);
        let name = [label.as_str(); 4].join(".");
        assert_eq!(name.len(), 255);
        let name = &name[..253];
        let aliases = vec![label.clone(); 64];
        let wide = "网".repeat(20);
        assert_eq!(check_names(Some(name), &aliases), Ok(()));
        for (name, aliases, says) in [
            (None, vec![label.clone(); 65], "at most 64"),
            (Some(format!("{name}a")), vec![], "at most 253"),
            (Some(format!("{label}a")), vec![], "at most 63"),
            (None, vec![format!("b.{label}a")], "at most 63"),
            // 22 characters of three bytes.
            (None, vec!["网".repeat(22)], "66 bytes"),
            // 104 characters.
            (Some([wide.as_str(); 5].join(".")), vec![], "304 bytes"),
        ] {
            let excess = check_names(name.as_deref(), &aliases).expect_err(says);
            assert!(excess.to_string().contains(says), "{excess}");
        }
    }

    #[test]
    fn reader_keeps_what_lies_within_the_limits() {
        let long = "a".repeat(64);
        let mut name = Some(long.clone());
        let mut aliases: Vec<String> = (0..900_000).map(|it| format!("a{it}")).collect();
        aliases[1].clone_from(&long);
        let excess = limit_names(&mut name, &mut aliases);
        assert_eq!(excess, Some(NameExcess::Aliases { count: 900_000 }));
        assert_eq!((name, aliases.len()), (Some(long.clone()), 63));
        assert!(!aliases.contains(&long));

        let mut name = Some("a".repeat(254));
        let excess = limit_names(&mut name, &mut Vec::new());
        assert!(matches!(excess, Some(NameExcess::Name { length: 254, .. })));
        assert_eq!(name, None);
        let mut name = Some("web".to_owned());
        assert_eq!(limit_names(&mut name, &mut vec!["lb".to_owned()]), None);
    }
}
