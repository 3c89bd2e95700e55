//! Clients of tests.

use std::time::{Duration, SystemTime};

use loden_transport::Holder;

use super::Client;

/// The holder of a certificate for an hour, by role and name.
pub(crate) fn client(id: &str) -> Client {
    let begins = SystemTime::now();
    let id = format!("spiffe://loden/{id}").parse().unwrap();
    Client::Holder(Holder {
        id,
        epoch: 0,
        generation: 0,
        root: None,
        begins,
        expires: begins + Duration::from_secs(3600),
    })
}
