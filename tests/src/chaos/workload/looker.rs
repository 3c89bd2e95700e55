//! What the lists of each replica show.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use loden_proto::v1;
use loden_proto::v1::lease_service_client::LeaseServiceClient;
use loden_proto::v1::network_service_client::NetworkServiceClient;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::transport::Channel;

use super::desk::{founded, held, reserved};
use super::{LIST, SCARCE};
use crate::chaos::site::{NETWORK, Site};
use crate::client;
use crate::history::{Held, Look, Recorder, Scope, Thing};
use crate::wait;

/// The pause between two rounds.
const PAUSE: Duration = Duration::from_secs(1);
/// As many as a page can have: a list of more would be of several revisions.
const PAGE: i32 = 1000;
/// How long all replicas may take to answer when nothing is wrong any more.
const SETTLED: Duration = Duration::from_secs(20);

/// All lists that are looked at.
fn scopes() -> [Scope; 4] {
    [
        Scope::Leases(NETWORK.to_owned()),
        Scope::Leases(SCARCE.to_owned()),
        Scope::Reservations(SCARCE.to_owned()),
        Scope::Networks,
    ]
}

/// Looks at everything, round by round, until it is told to stop. While the replica does not answer there is nothing
/// to write down.
pub(super) async fn look_on(
    replica: usize,
    channel: Channel,
    recorder: Arc<Recorder>,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    while timeout(PAUSE, stopped.wait_for(|stopped| *stopped)).await.is_err() {
        for scope in scopes() {
            if let Ok(look) = look(replica, &channel, scope, &recorder, false).await {
                recorder.look(look);
            }
        }
    }
    Ok(())
}

/// Writes down what every replica shows in the end: as soon as none is behind what another one knew at first.
pub(in crate::chaos) async fn last_looks(site: &Site, recorder: &Recorder) -> anyhow::Result<()> {
    let mut channels = Vec::new();
    for replica in 0..site.replicated.replicas().len() {
        channels.push(site.replicated.channel_past(replica, &site.admin).await?);
    }
    let mut newest = 0;
    for (replica, channel) in channels.iter().enumerate() {
        let what = format!("replica {replica} to tell its revision");
        let known = wait::until(&what, SETTLED, async || {
            look(replica, channel, Scope::Networks, recorder, false).await
        });
        newest = newest.max(known.await?.revision);
    }
    for (replica, channel) in channels.iter().enumerate() {
        for scope in scopes() {
            let what = format!("replica {replica} to show revision {newest}");
            let seen = wait::until(&what, SETTLED, async || {
                let look = look(replica, channel, scope.clone(), recorder, true).await?;
                ensure!(look.revision >= newest, "it shows revision {}", look.revision);
                Ok(look)
            });
            recorder.look(seen.await?);
        }
    }
    Ok(())
}

async fn look(
    replica: usize,
    channel: &Channel,
    scope: Scope,
    recorder: &Recorder,
    last: bool,
) -> anyhow::Result<Look> {
    let begin = recorder.now();
    let (revision, things) = timeout(LIST, list(channel, &scope)).await??;
    Ok(Look { replica, begin, end: recorder.now(), revision, scope, things, last })
}

async fn list(channel: &Channel, scope: &Scope) -> anyhow::Result<(u64, BTreeMap<Thing, Held>)> {
    let page_token = String::new();
    let mut things = BTreeMap::new();
    let (revision, next) = match scope {
        Scope::Leases(network) => {
            let request = v1::ListLeasesRequest { parent: parent(network), page_size: PAGE, page_token };
            let page = LeaseServiceClient::new(channel.clone()).list_leases(request).await?.into_inner();
            for lease in &page.leases {
                let (network, node) = client::parts(&lease.name)?;
                things.insert(Thing::lease(network, node), held(lease)?);
            }
            (page.revision, page.next_page_token)
        }
        Scope::Reservations(network) => {
            let request =
                v1::ListReservationsRequest { parent: parent(network), page_size: PAGE, page_token };
            let mut leases = LeaseServiceClient::new(channel.clone());
            let page = leases.list_reservations(request).await?.into_inner();
            for reservation in &page.reservations {
                let node = reservation.name.rsplit('/').next().unwrap_or_default();
                things.insert(Thing::reservation(network, node), reserved(reservation)?);
            }
            (page.revision, page.next_page_token)
        }
        Scope::Networks => {
            let request = v1::ListNetworksRequest { page_size: PAGE, page_token };
            let page = NetworkServiceClient::new(channel.clone()).list_networks(request).await?.into_inner();
            // The others are nobody's work here.
            let is_passing = |network: &&v1::Network| network.name.starts_with("networks/passing-");
            for network in page.networks.iter().filter(is_passing) {
                let name = network.name.trim_start_matches("networks/").to_owned();
                things.insert(Thing::Network(name), founded(network)?);
            }
            (page.revision, page.next_page_token)
        }
    };
    ensure!(next.is_empty(), "the list has more than one page");
    Ok((revision, things))
}

fn parent(network: &str) -> String {
    format!("networks/{network}")
}
