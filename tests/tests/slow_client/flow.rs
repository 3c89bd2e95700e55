//! Writers that change all the time, and how long each change took to reach the readers.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use loden_proto::v1;
use loden_proto::v1::lease_service_client::LeaseServiceClient;
use loden_tests::client::{self, Follower, Identities};
use loden_tests::deployment::Deployment;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use crate::reading::Reading;
use crate::{ADDRESSES, NETWORK, PACE, READERS, WRITERS};

/// One change of one writer: when it was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub(crate) writer: usize,
    pub(crate) number: u16,
    at: Instant,
}

/// Writers that write and readers that read, until they are told to end.
pub(crate) struct Flow {
    stop: watch::Sender<bool>,
    changes: Arc<Mutex<Vec<Change>>>,
    writers: Vec<JoinHandle<anyhow::Result<()>>>,
    readers: Vec<Reading>,
}

impl Flow {
    pub(crate) async fn begin(deployment: &Deployment, identities: &Identities) -> anyhow::Result<Self> {
        let control = &deployment.control;
        let stop = watch::Sender::new(false);
        let changes = Arc::new(Mutex::new(Vec::new()));
        let mut readers = Vec::new();
        for number in 0..READERS {
            let channel = control.channel(&identities.node(&format!("r{number}"))?).await?;
            let instance = 100 + number as u128;
            client::acquire(&channel, NETWORK, instance, client::endpoint(61_000 + number as u16)).await?;
            readers.push(Reading::begin(channel, Follower::node(NETWORK, instance)).await?);
        }
        let mut writers = Vec::new();
        for writer in 0..WRITERS {
            let channel = control.channel(&identities.node(&name(writer))?).await?;
            let (stop, changes) = (stop.subscribe(), Arc::clone(&changes));
            writers.push(tokio::spawn(write(writer, channel, stop, changes)));
        }
        Ok(Self { stop, changes, writers, readers })
    }

    pub(crate) fn changes(&self) -> usize {
        self.changes.lock().unwrap().len()
    }

    /// Bytes that the first reader has received.
    pub(crate) fn received(&self) -> usize {
        self.readers[0].received()
    }

    pub(crate) fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.writers.iter().any(JoinHandle::is_finished), "a writer has ended");
        ensure!(!self.readers.iter().any(|reader| reader.task.is_finished()), "a reader has ended");
        Ok(())
    }

    /// Waits until everybody has everything; answers what each change took to each reader.
    pub(crate) async fn end(self, admin: &Channel) -> anyhow::Result<Vec<(Change, Duration)>> {
        self.stop.send_replace(true);
        for writer in self.writers {
            writer.await??;
        }
        let changes = std::mem::take(&mut *self.changes.lock().unwrap());
        let mut all = Vec::new();
        for reader in self.readers {
            let sightings = reader.end(&changes, admin).await?;
            for change in &changes {
                let of_writer = &sightings[change.writer];
                let index = of_writer.partition_point(|(number, _)| *number < change.number);
                let (_, at) = of_writer.get(index).with_context(|| format!("{change:?} was not seen"))?;
                all.push((*change, at.saturating_duration_since(change.at)));
            }
        }
        Ok(all)
    }
}

/// Median, 99 % and longest of the changes asked for at these times.
pub(crate) fn latency(
    seen: &[(Change, Duration)],
    when: impl Fn(Instant) -> bool,
) -> (Duration, Duration, Duration) {
    let mut taken: Vec<_> =
        seen.iter().filter(|(change, _)| when(change.at)).map(|(_, took)| *took).collect();
    taken.sort();
    let at = |share: usize| taken.get(taken.len() * share / 100).copied().unwrap_or_default();
    (at(50), at(99), taken.last().copied().unwrap_or_default())
}

/// As long as names of hosts may be: what is told of it shall be worth something.
pub(crate) fn name(writer: u16) -> String {
    format!("writer-{writer}-{}", "x".repeat(50))
}

/// A node whose address changes all the time: its last part counts.
async fn write(
    writer: u16,
    channel: Channel,
    stop: watch::Receiver<bool>,
    changes: Arc<Mutex<Vec<Change>>>,
) -> anyhow::Result<()> {
    let address = |number: u16| v1::Endpoint {
        address_v6: format!("2001:db8:ffff:ffff:ffff:ffff:ffff:{:x}", writer + 0x1000),
        ..client::endpoint(writer * ADDRESSES + number)
    };
    let lease = client::acquire(&channel, NETWORK, u128::from(writer) + 1, address(0)).await?;
    let mut leases = LeaseServiceClient::new(channel);
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for number in 1..ADDRESSES {
        if *stop.borrow() {
            return Ok(());
        }
        pace.tick().await;
        let at = Instant::now();
        let request = v1::UpdateEndpointRequest {
            name: lease.name.clone(),
            epoch: lease.epoch,
            endpoint: Some(address(number)),
        };
        leases.update_endpoint(request).await?;
        changes.lock().unwrap().push(Change { writer: writer.into(), number, at });
    }
    bail!("the addresses are used up")
}
