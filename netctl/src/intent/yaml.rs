//! Reading YAML: limits before it is parsed, and values whose errors name keys and lines.

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{DeserializeOwned, Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Brackets in brackets. The file needs a dozen; the parser takes a time of the square of their depth.
const MAX_DEPTH: usize = 64;

/// Reads a text, with or without a byte-order mark. An error is a text with keys and a line.
pub(crate) fn read<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    must_be_shallow(text)?;
    serde_yaml_ng::from_str(text).map_err(|error| in_words_of_yaml(&error.to_string()))
}

fn must_be_shallow(text: &str) -> Result<(), String> {
    let mut depth: usize = 0;
    for (index, line) in text.lines().enumerate() {
        let mut letters = line.chars();
        // A text in quotes ends in its line here, so that a quote within a word hides no other line.
        let (mut quote, mut before, mut last) = (None, ' ', None);
        // `- - -` and `? ? ?` nest, too.
        let dashes = line
            .split(' ')
            .take_while(|it| matches!(*it, "" | "-" | "?"));
        let dashes = dashes.filter(|it| !it.is_empty()).count();
        while let Some(letter) = letters.next() {
            match (quote, letter) {
                (Some('"'), '\\') => {
                    letters.next();
                }
                (Some(end), _) if letter == end => quote = None,
                (Some(_), _) => {}
                (None, '#') if before.is_whitespace() => break,
                (None, '"' | '\'') if begins_value(last, before) => quote = Some(letter),
                (None, '[' | '{') => depth += 1,
                (None, ']' | '}') => depth = depth.saturating_sub(1),
                (None, _) => {}
            }
            before = letter;
            if !letter.is_whitespace() {
                last = Some(letter);
            }
            if depth.max(dashes) > MAX_DEPTH {
                let line = index + 1;
                return Err(format!("line {line}: more than {MAX_DEPTH} lists in lists"));
            }
        }
    }
    Ok(())
}

/// Whether a value begins behind the letter `before` and the `last` one that is no space. Elsewhere a
/// quote is a letter of a word, as in `don't`.
fn begins_value(last: Option<char>, before: char) -> bool {
    match last {
        None | Some('[' | '{' | ',') => true,
        // A key in quotes may be followed by its value without a space, as in JSON.
        Some(':' | '-' | '?') => before.is_whitespace() || before == ':',
        Some(_) => false,
    }
}

/// The parser's text without the words of its library.
fn in_words_of_yaml(text: &str) -> String {
    [
        ("unknown field", "unknown key"),
        ("missing field", "missing key"),
        ("duplicate field", "duplicate key"),
        ("invalid type: unit value", "no value"),
        ("invalid type: ", "found "),
        ("invalid value: ", "found "),
    ]
    .iter()
    .fold(text.to_owned(), |text, (theirs, ours)| {
        text.replace(theirs, ours)
    })
}

/// A value in the form of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parsed<T>(pub(crate) T);

impl<T: Display> Serialize for Parsed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de, T: FromStr<Err: Display>> Deserialize<'de> for Parsed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text<T>(PhantomData<T>);

        // The parser adds the line to an error that a visitor returns.
        impl<T: FromStr<Err: Display>> Visitor<'_> for Text<T> {
            type Value = Parsed<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                text.parse().map(Parsed).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text(PhantomData))
    }
}

/// A text that YAML may read as a number, such as `80`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Word {
    Number(u64),
    Text(String),
}

impl Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl Serialize for Word {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_u64(*number),
            Self::Text(text) => serializer.serialize_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrNumber;

        impl Visitor<'_> for TextOrNumber {
            type Value = Word;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a number")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Word, E> {
                Ok(Word::Number(number))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Word, E> {
                Ok(Word::Text(text.to_owned()))
            }
        }

        deserializer.deserialize_any(TextOrNumber)
    }
}

/// The value of `pktTag`; 0: a free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct PktTag(pub(crate) u32);

impl<'de> Deserialize<'de> for PktTag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;

        impl Visitor<'_> for Number {
            type Value = PktTag;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a packet tag, a number from 1 to 16777215, or 0 for a free one")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<PktTag, E> {
                let tag = u32::try_from(number).ok();
                let tag = tag.filter(|it| *it <= bus_schema::Vni::MAX);
                tag.map(PktTag)
                    .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Unsigned(number), &self))
            }
        }

        deserializer.deserialize_any(Number)
    }
}

/// The value of `maxConnections`; 0: the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Limit(pub(crate) u32);

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;

        // The parser adds the key and the line to an error that a visitor returns.
        impl Visitor<'_> for Number {
            type Value = Limit;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of connections, or 0 for the default")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Limit, E> {
                let max = u32::try_from(number).map(Limit);
                max.map_err(|_| E::invalid_value(serde::de::Unexpected::Unsigned(number), &self))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Limit, E> {
                let max = text.parse().map(Limit);
                max.map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(Number)
    }
}

/// An item of a list, which has its name once.
pub(crate) trait Named {
    /// Its kind and its name.
    fn describe(&self) -> String;
}

/// Reads a list whose names differ; an absent value is an empty list.
pub(crate) fn unique<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Named,
{
    struct List<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de> + Named> Visitor<'de> for List<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_unit<E: Error>(self) -> Result<Vec<T>, E> {
            Ok(Vec::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let mut all: Vec<T> = Vec::new();
            let mut names = BTreeSet::new();
            while let Some(item) = items.next_element::<T>()? {
                let name = item.describe();
                if names.contains(&name) {
                    return Err(A::Error::custom(format!("{name} occurs twice")));
                }
                names.insert(name);
                all.push(item);
            }
            Ok(all)
        }
    }

    deserializer.deserialize_any(List(PhantomData))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn deep_nesting_is_refused_at_once() {
        for deep in [
            "[".repeat(100_000),
            "{a: ".repeat(100_000),
            "- ".repeat(100_000),
            format!("tenants:\n- x: {}", "[\n".repeat(100_000)),
            format!("a: it 's so\nb: {}", "[".repeat(100_000)),
            format!("a: it 's so\nb: {}", "[\n".repeat(100_000)),
            format!("[a 'b, {}", "[".repeat(100_000)),
        ] {
            let started = Instant::now();
            let error = read::<serde_json::Value>(&deep).expect_err("it is too deep");
            assert!(error.contains("lists in lists"), "{error}");
            assert!(started.elapsed() < Duration::from_secs(2), "{error}");
        }
        let flat = format!("a: [{}]", "[1, '[[', \"[\"], # [[[\n".repeat(1_000));
        assert!(read::<serde_json::Value>(&flat).is_ok());
    }

    #[test]
    fn byte_order_mark_is_accepted() {
        let read: Result<Vec<u8>, String> = read("\u{feff}[1]");
        assert_eq!(read, Ok(vec![1]));
    }
}
