//! Watchers of etcd, told of the same changes in as many bytes: many on each of a few connections, as etcd's own
//! clients have them.
//!
//! ```text
//!  one key is put ─▶ etcd ─▶ 100 connections, a stream on each, 100 watchers of the prefix on each stream
//! ```

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use etcd_client::{
    Certificate, Client, ConnectOptions, EventType, GetOptions, Identity, TlsOptions, WatchOptions,
    WatchResponse,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use loden_proto::v1;
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::changes::{self, Mover};
use super::driver;
use super::members;
use super::sightings::{self, Sightings};
use super::{Answer, Order, SwarmArgs};

/// Connections of all watchers together.
const CONNECTIONS: u16 = 100;
/// Puts at once while the set of peers is filled.
const AT_ONCE: usize = 64;
/// How long a server may take to answer.
const CONNECT: Duration = Duration::from_secs(10);
/// How long everybody may take to watch.
const WATCH: Duration = Duration::from_secs(120);

/// The swarm.
pub(super) struct EtcdWatchers {
    args: SwarmArgs,
    sightings: Arc<Sightings>,
    putter: Option<Putter>,
    watching: JoinSet<anyhow::Result<()>>,
}

/// Who changes the key.
struct Putter {
    client: Client,
    prefix: String,
    change: u16,
}

impl EtcdWatchers {
    pub(super) fn new(args: SwarmArgs) -> Self {
        Self { args, sightings: Arc::default(), putter: None, watching: JoinSet::new() }
    }

    pub(super) async fn obey(&mut self, order: Order) -> anyhow::Result<Answer> {
        let members = usize::from(self.args.count);
        if let Some(ended) = self.watching.try_join_next() {
            ended?.context("a stream of watchers")?;
            bail!("a stream of watchers has ended");
        }
        match order {
            Order::Fill { network } => self.fill(&network).await,
            Order::Join { network, .. } => self.watch(&network).await,
            Order::Change { count, pause } => {
                let putter = self.putter.as_mut().context("nobody watches")?;
                changes::one_by_one(putter, &self.sightings, members, (count, pause)).await
            }
            Order::Steady { count, period } => {
                let putter = self.putter.as_mut().context("nobody watches")?;
                changes::steadily(putter, &self.sightings, members, (count, period)).await
            }
            other => bail!("{other:?} is nothing for watchers of etcd"),
        }
    }

    /// Puts as many peers as there are watchers.
    async fn fill(&mut self, prefix: &str) -> anyhow::Result<Answer> {
        let begin = Instant::now();
        let client = connect(&self.args).await?;
        let puts = (0..self.args.count).map(async |index| {
            let key = format!("{prefix}/{}", members::name(index)?);
            let value = peer(members::name(index)?.as_str(), index, members::underlay(index))?;
            client.clone().put(key, value, None).await?;
            anyhow::Ok(())
        });
        stream::iter(puts).buffer_unordered(AT_ONCE).try_for_each(async |()| Ok(())).await?;
        Ok(Answer::Done { seconds: begin.elapsed().as_secs_f64() })
    }

    /// Everybody reads the prefix and watches it.
    async fn watch(&mut self, prefix: &str) -> anyhow::Result<Answer> {
        let begin = Instant::now();
        let (there, mut all_there) = mpsc::channel(1);
        let connections = CONNECTIONS.min(self.args.count);
        let mut first = 0;
        for connection in 0..connections {
            let share = self.args.count / connections + u16::from(connection < self.args.count % connections);
            let watching = watch(
                connect(&self.args).await?,
                prefix.to_owned(),
                (first, share),
                Arc::clone(&self.sightings),
                there.clone(),
            );
            self.watching.spawn(watching);
            first += share;
        }
        for _ in 0..connections {
            tokio::select! {
                there = timeout(WATCH, all_there.recv()) => there.context("not everybody watches")?.context("watch")?,
                Some(ended) = self.watching.join_next() => {
                    ended?.context("a stream of watchers")?;
                    bail!("a stream of watchers has ended");
                }
            }
        }
        let client = connect(&self.args).await?;
        self.putter = Some(Putter { client, prefix: prefix.to_owned(), change: 0 });
        Ok(Answer::Done { seconds: begin.elapsed().as_secs_f64() })
    }
}

impl Mover for Putter {
    fn change(&self) -> u16 {
        self.change
    }

    async fn move_on(&mut self) -> anyhow::Result<()> {
        self.change += 1;
        let address = sightings::address(self.change);
        let key = format!("{}/{}", self.prefix, driver::NAME);
        self.client.put(key, peer(driver::NAME, u16::MAX, address)?, None).await?;
        Ok(())
    }
}

/// So many watchers, from the first member on, on one stream.
async fn watch(
    mut client: Client,
    prefix: String,
    (first, share): (u16, u16),
    sightings: Arc<Sightings>,
    there: mpsc::Sender<()>,
) -> anyhow::Result<()> {
    // What an agent would begin with.
    client.get(prefix.as_str(), Some(GetOptions::new().with_prefix().with_count_only())).await?;
    let options = || Some(WatchOptions::new().with_prefix());
    let mut stream = client.watch(prefix.as_str(), options()).await?;
    for _ in 1..share {
        stream.watch(prefix.as_str(), options()).await?;
    }
    let mut created = 0;
    while let Some(message) = stream.message().await? {
        ensure!(!message.canceled(), "a watch was cancelled: {}", message.cancel_reason());
        if message.created() {
            created += 1;
            if created == share {
                there.send(()).await?;
            }
            continue;
        }
        // A stream counts its watches from 0.
        let member = first + u16::try_from(message.watch_id())?;
        look(&sightings, member, &message);
    }
    bail!("etcd closed the stream")
}

fn look(sightings: &Sightings, member: u16, message: &WatchResponse) {
    for event in message.events().iter().filter(|event| event.event_type() == EventType::Put) {
        let peer = event.kv().and_then(|kv| v1::Peer::decode(kv.value()).ok());
        let address = peer.and_then(|peer| peer.endpoint?.address_v4.parse().ok());
        if let Some(change) = address.and_then(sightings::change) {
            sightings.saw(member, change);
        }
    }
}

/// What a watcher of ours is told of a node.
fn peer(node: &str, index: u16, address: Ipv4Addr) -> anyhow::Result<Vec<u8>> {
    let vxlan = v1::VxlanBackend { port: Some(8472), ..Default::default() };
    let network = v1::Network {
        vni: Some(4096),
        backend: Some(v1::network::Backend::Vxlan(vxlan)),
        ..Default::default()
    };
    let endpoint = members::endpoint(address, index, &network)?;
    let [high, low] = index.to_be_bytes();
    let subnets = vec![format!("10.{high}.{low}.0/24")];
    Ok(v1::Peer { node: node.to_owned(), subnets, endpoint: Some((&endpoint).into()) }.encode_to_vec())
}

async fn connect(args: &SwarmArgs) -> anyhow::Result<Client> {
    let read = |name: &str| read(&args.pki.join(name));
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(read("ca.crt")?))
        .identity(Identity::from_pem(read("client.crt")?, read("client.key")?));
    let options = ConnectOptions::new().with_tls(tls).with_connect_timeout(CONNECT);
    let client = Client::connect([args.server.to_string()], Some(options)).await?;
    Ok(client)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("could not read {}", path.display()))
}
