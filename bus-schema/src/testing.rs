//! Values for tests, parsed from their texts. Behind the feature `testing`.

use std::fmt::Debug;
use std::net::AddrParseError;
use std::str::FromStr;

use ipnet::IpNet;

use crate::id::InvalidName;

/// The name or id of any kind that this text is.
///
/// # Panics
/// If the text is no name.
#[track_caller]
pub fn name<T: FromStr<Err = InvalidName>>(text: &str) -> T {
    parse(text)
}

/// The address of either family that this text is.
///
/// # Panics
/// If the text is no address.
#[track_caller]
pub fn ip<T: FromStr<Err = AddrParseError>>(text: &str) -> T {
    parse(text)
}

/// # Panics
/// If the text is no subnet.
#[track_caller]
pub fn subnet(text: &str) -> IpNet {
    parse(text)
}

#[track_caller]
fn parse<T: FromStr<Err: Debug>>(text: &str) -> T {
    match text.parse() {
        Ok(value) => value,
        Err(error) => panic!("`{text}`: {error:?}"),
    }
}
