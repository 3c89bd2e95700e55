//! A whole agent with a kernel in memory, a scripted control plane and a clock
//! that only moves when everybody waits.

mod endings;
mod firewall;
mod host;
mod lease;
mod moves;
mod peers;
mod refusals;
mod start;
mod tunnel;

use std::time::Duration;

use loden_datapath::{Error, Step};
use tokio::time::sleep;

/// Long enough for everything that is due.
async fn settle() {
    sleep(Duration::from_secs(2)).await;
}

fn no_space() -> Error {
    Error::Socket(std::io::Error::from(std::io::ErrorKind::StorageFull))
}

fn is_route_to(step: &Step, number: u8) -> bool {
    matches!(step, Step::SetRoute(key, _) if key.prefix.to_string() == format!("10.244.{number}.0/24"))
}
