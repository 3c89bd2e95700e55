//! Nodes that ask for a subnet as soon as the server is there again.

use std::collections::BTreeSet;

use anyhow::{anyhow, ensure};
use ipnet::IpNet;
use loden_proto::reason::{self, Reason};
use loden_proto::v1;
use loden_tests::client;
use loden_tests::wait;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::{NETWORK, PATIENCE};

/// A node without an agent that wants a subnet; it connects again by itself.
pub(crate) struct Newcomer {
    pub(crate) number: u16,
    pub(crate) channel: Channel,
    pub(crate) endpoint: v1::Endpoint,
}

pub(crate) type Asking = JoinHandle<anyhow::Result<Vec<IpNet>>>;

/// Everybody asks again and again, without a claim, and faster than any agent comes back.
pub(crate) fn ask_from_now_on(newcomers: Vec<Newcomer>) -> Vec<Asking> {
    newcomers.into_iter().map(|newcomer| tokio::spawn(newcomer.ask())).collect()
}

impl Newcomer {
    /// Answers the subnets that it was given, of each family one; none: nothing is left.
    async fn ask(self) -> anyhow::Result<Vec<IpNet>> {
        let Self { number, channel, endpoint } = self;
        let asked = wait::until("a subnet", PATIENCE * 2, async || {
            match client::acquire(&channel, NETWORK, number.into(), endpoint.clone()).await {
                Ok(lease) => {
                    Ok(Ok(lease.subnets.iter().map(|subnet| subnet.parse()).collect::<Result<_, _>>()?))
                }
                Err(status) if Reason::Exhausted.is_of(&status) => Ok(Ok(Vec::new())),
                Err(status) if later(&status) => Err(anyhow!(status)),
                Err(status) => Ok(Err(anyhow!(status).context(format!("new-{number}")))),
            }
        });
        asked.await?
    }
}

/// Whether it may help to ask again: the server is away or says so, or there is no network yet.
fn later(status: &Status) -> bool {
    reason::of(status).is_none() || matches!(status.code(), Code::Unavailable | Code::NotFound)
}

/// What the newcomers were given: nothing that is in use, and nothing twice.
pub(crate) async fn granted(
    asking: Vec<Asking>,
    in_use: &BTreeSet<IpNet>,
) -> anyhow::Result<BTreeSet<IpNet>> {
    let mut given = BTreeSet::new();
    for asked in asking {
        for subnet in asked.await?? {
            ensure!(!in_use.contains(&subnet), "{subnet} was given out, which is in use");
            ensure!(given.insert(subnet), "{subnet} was given out twice");
        }
    }
    Ok(given)
}
