//! A refusal for the tests of endpoints. Facts and endpoints are in [`node_core::endpoint::fixture`].

use bus_schema::{Rejection, Revision};

pub(crate) use node_core::endpoint::fixture::*;

use crate::requests::BusError;

pub(crate) fn rejected(rejection: Rejection) -> BusError {
    let revision = Revision(1);
    BusError::Rejected {
        rejection: Box::new(rejection),
        revision,
        is_final: true,
    }
}
