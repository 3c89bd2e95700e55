//! A client that reads its watch, and sees every writer go forward.

use std::convert::Infallible;
use std::time::Instant;

use anyhow::{Context, anyhow, bail, ensure};
use loden_tests::client::{self, Follower};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use crate::flow::{Change, name};
use crate::{ADDRESSES, NETWORK, PATIENCE, WRITERS};

/// Of each writer, in order: how far it was seen, and when.
pub(crate) type Sightings = Vec<Vec<(u16, Instant)>>;

/// A client that reads its watch.
pub(crate) struct Reading {
    pub(crate) task: JoinHandle<anyhow::Result<Infallible>>,
    state: watch::Receiver<(Sightings, Follower)>,
}

impl Reading {
    pub(crate) async fn begin(channel: Channel, mut follower: Follower) -> anyhow::Result<Self> {
        follower.open(&channel).await?;
        let sightings = vec![Vec::new(); WRITERS.into()];
        let (told, state) = watch::channel((sightings, Follower::observer(NETWORK)));
        let task = tokio::spawn(async move {
            let _connected = channel;
            loop {
                follower.next().await?;
                let at = Instant::now();
                let mut result = Ok(());
                told.send_modify(|(sightings, latest)| {
                    latest.peers.clone_from(&follower.peers);
                    latest.received = follower.received;
                    result = note(sightings, &follower, at);
                });
                result?;
            }
        });
        Ok(Self { task, state })
    }

    pub(crate) fn received(&self) -> usize {
        self.state.borrow().1.received
    }

    /// Waits until it has seen the last change of everybody; it then knows what the server lists.
    pub(crate) async fn end(mut self, changes: &[Change], admin: &Channel) -> anyhow::Result<Sightings> {
        let mut last = [0; WRITERS as usize];
        for change in changes {
            last[change.writer] = change.number;
        }
        let all = self.state.wait_for(|(sightings, _)| {
            sightings.iter().zip(last).all(|(seen, last)| seen.last().is_some_and(|(seen, _)| *seen == last))
        });
        let all = tokio::time::timeout(PATIENCE, all).await;
        let (sightings, latest) = {
            let state = all.map_err(|_| anyhow!("not every change was seen"))??;
            (state.0.clone(), state.1.peers.clone())
        };
        let leases = client::leases(admin).await?;
        for peer in latest.values() {
            let name = format!("networks/{NETWORK}/leases/{}", peer.node);
            let lease = leases.iter().find(|lease| lease.name == name).context("a peer without a lease")?;
            ensure!(lease.endpoint == peer.endpoint && lease.subnets == peer.subnets, "{lease:?}, {peer:?}");
        }
        // All but the reader itself.
        ensure!(latest.len() == leases.len() - 1, "{} peers of {} leases", latest.len(), leases.len());
        self.task.abort();
        Ok(sightings)
    }
}

/// Looks at every writer's address; it never goes back.
fn note(sightings: &mut Sightings, follower: &Follower, at: Instant) -> anyhow::Result<()> {
    for (writer, seen) in (0..WRITERS).zip(sightings) {
        let Some(peer) = follower.peers.get(&name(writer)) else { continue };
        let address: std::net::Ipv4Addr = peer.endpoint.clone().unwrap_or_default().address_v4.parse()?;
        let [_, _, high, low] = address.octets();
        let number = u16::from_be_bytes([high, low]) - writer * ADDRESSES;
        match seen.last() {
            Some((before, _)) if *before > number => bail!("w{writer} went back from {before} to {number}"),
            Some((before, _)) if *before == number => {}
            _ => seen.push((number, at)),
        }
    }
    Ok(())
}
