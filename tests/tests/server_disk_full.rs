//! The real control plane on a disk that is full, its log with it: writers are told why, everybody else is
//! served, and once there is space it goes on by itself.
//!
//! ```text
//!  small disk: state directory + filler ─▶ writes until one is refused ─▶ look at everything ─▶ space ─▶ on
//! ```

#![cfg(test)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow, bail, ensure};
use hyper::StatusCode;
use loden_control_plane::identity::Pki;
use loden_proto::reason::{self, Reason};
use loden_proto::v1;
use loden_proto::v1::cluster_service_client::ClusterServiceClient;
use loden_proto::v1::lease_service_client::LeaseServiceClient;
use loden_tests::client::{self, Follower, Identities, Seen};
use loden_tests::deployment::{Binaries, Deployment};
use loden_tests::disk::Disk;
use loden_tests::wait;
use tonic::transport::Channel;
use tonic::{Code, Status};

const NETWORK: &str = "blue";
const NODES: u16 = 4;
const DISK_BYTES: u64 = 48 << 20;
const CAUSE: &str = "No space left on device";
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writers_with_the_cause_serves_everybody_else_and_heals_by_itself()
-> anyhow::Result<()> {
    // Where a log on the same disk would be, without the rest of its last page.
    let mut site = Site::start("disk-full", Some("/dev/full")).await?;
    let mut follower = Follower::node(NETWORK, site.instance(0)?);
    follower.open(&site.nodes[0]).await?;
    ensure!(matches!(follower.next().await?, Seen::Snapshot { .. }));
    // The last node writes, so that the first one's watch is its own.
    site.fill_up().await?;

    for _ in 0..20 {
        let Err(status) = site.write().await else { bail!("a write was acknowledged on a full disk") };
        refused_for_its_cause(&status)?;
    }
    site.names_the_cause().await?;
    let begin = tokio::time::Instant::now();
    while begin.elapsed() < Duration::from_secs(2) {
        // A delta may still be on its way.
        let seen = tokio::time::timeout(Duration::from_secs(3), follower.next()).await;
        ensure!(!matches!(seen.context("the watch is silent")??, Seen::Snapshot { .. }));
    }
    site.reads_go_on().await?;

    let process = site.pid()?;
    let started = site.started().await?;
    fs::remove_file(site.filler())?;
    let restarted = wait::until("the control plane to start itself anew", PATIENCE, async || {
        let admin = site.connect().await?;
        ensure!(started_at(&admin).await? != started, "it is still the same life");
        let (status, body) = site.deployment.control.get("/readyz").await?;
        ensure!(status == StatusCode::OK, "{status}: {body}");
        anyhow::Ok(admin)
    });
    site.admin = restarted.await?;
    ensure!(site.pid()? == process, "another process has taken over");
    site.nothing_is_lost().await?;
    let ended = loop {
        match follower.next().await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    ensure!(ended.code() == Code::Unavailable, "the watch ended with {ended:?}");
    site.reconnect().await?;
    for _ in 0..50 {
        site.write().await?;
    }
    follower.open(&site.nodes[0]).await?;
    let seen = follower.next().await?;
    ensure!(matches!(seen, Seen::Delta { .. }), "the watch did not resume: {seen:?}");
    site.nothing_is_lost().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_starts_on_a_full_disk_again_and_again_and_serves_reads() -> anyhow::Result<()> {
    let mut site = Site::start("full-start", None).await?;
    site.fill_up().await?;
    for round in 0..5 {
        site.deployment.control.kill9().await?;
        // Not a byte is left of what the last life gave back.
        fill(&site.filler(), 0)?;
        site.deployment.control.start().await.with_context(|| format!("start {round}"))?;
        site.admin = site.connect().await?;
        site.reconnect().await?;
        site.reads_go_on().await.with_context(|| format!("start {round}"))?;
        site.fill_up().await.with_context(|| format!("start {round}"))?;
        site.names_the_cause().await?;
    }
    site.deployment.control.kill9().await?;
    fs::remove_file(site.filler())?;
    site.deployment.control.start().await?;
    site.admin = site.connect().await?;
    site.reconnect().await?;
    site.nothing_is_lost().await?;
    for _ in 0..50 {
        site.write().await?;
    }
    site.nothing_is_lost().await
}

#[test]
fn issuing_to_a_full_disk_leaves_nothing_behind() -> anyhow::Result<()> {
    let state = tempfile::tempdir()?;
    Pki::open_or_create(&state.path().join("pki"), &"loden".parse()?, SystemTime::now())?;
    let disk = Disk::small(DISK_BYTES)?;
    let filler = disk.path().join("filler");
    // Enough for the directory and its first file.
    fill(&filler, 4096)?;
    let mut issue = Command::new(Binaries::locate()?.control_plane);
    issue.arg("--state-dir").arg(state.path()).args(["issue", "node", "a", "--out"]);
    let output = issue.arg(disk.path().join("a")).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && said.contains(CAUSE), "{}: {said}", output.status);
    let left =
        fs::read_dir(disk.path())?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(left == [filler], "{left:?}");
    Ok(())
}

/// A control plane on a small disk, and what it has acknowledged.
struct Site {
    deployment: Deployment,
    disk: Disk,
    identities: Vec<PathBuf>,
    admin_identity: PathBuf,
    admin: Channel,
    nodes: Vec<Channel>,
    writes: u16,
    /// Of each node.
    acknowledged: BTreeMap<String, v1::Lease>,
    /// Instances of acquires since that were not acknowledged.
    refused: BTreeMap<String, Vec<String>>,
}

impl Site {
    /// With a network, a lease for everybody, and space.
    async fn start(name: &str, log: Option<&str>) -> anyhow::Result<Self> {
        let flags = ["--settle", "0s", "--heartbeat", "300ms"];
        let mut deployment = Deployment::prepare(name, &flags).await?;
        // From here on this thread and the processes that it starts are alone with the disk.
        let disk = Disk::small(DISK_BYTES)?;
        deployment.control.state = disk.path().join("state");
        deployment.control.log = log.map(PathBuf::from);
        deployment.control.start().await?;
        let home = deployment.lab.directory().join("identities");
        let issuer = Identities::of(&deployment.control, &home)?;
        let admin_identity = issuer.admin("operator")?;
        let admin = deployment.control.channel(&admin_identity).await?;
        let identities =
            (0..NODES).map(|node| issuer.node(&format!("n{node}"))).collect::<anyhow::Result<Vec<_>>>()?;
        client::create_network(&admin, NETWORK, "10.1.0.0/16", 24).await?;
        let mut site = Self {
            deployment,
            disk,
            identities,
            admin_identity,
            admin,
            nodes: Vec::new(),
            writes: 0,
            acknowledged: BTreeMap::new(),
            refused: BTreeMap::new(),
        };
        site.reconnect().await?;
        for _ in 0..NODES {
            site.write().await?;
        }
        Ok(site)
    }

    async fn connect(&self) -> anyhow::Result<Channel> {
        self.deployment.control.channel(&self.admin_identity).await
    }

    async fn reconnect(&mut self) -> anyhow::Result<()> {
        self.nodes.clear();
        for identity in &self.identities {
            self.nodes.push(self.deployment.control.channel(identity).await?);
        }
        Ok(())
    }

    /// The first node stays as it is once it has its lease, so that it can watch; the others take turns in
    /// acquiring theirs as another instance each time.
    async fn write(&mut self) -> Result<(), Status> {
        let node = if self.writes == 0 { 0 } else { 1 + (self.writes - 1) % (NODES - 1) };
        self.writes += 1;
        let (name, instance) = (format!("n{node}"), u128::from(self.writes));
        // Another address each time, so that the watchers are told.
        let endpoint = client::endpoint(node + NODES * (self.writes % 2 + 1));
        match client::acquire(&self.nodes[usize::from(node)], NETWORK, instance, endpoint).await {
            Ok(lease) => {
                self.refused.remove(&name);
                self.acknowledged.insert(name, lease);
                Ok(())
            }
            Err(status) => {
                self.refused.entry(name).or_default().push(format!("{instance:032x}"));
                Err(status)
            }
        }
    }

    /// Fills the disk and writes until a write is refused.
    async fn fill_up(&mut self) -> anyhow::Result<()> {
        fill(&self.filler(), 200 << 10)?;
        for _ in 0..20_000 {
            if let Err(status) = self.write().await {
                refused_for_its_cause(&status)?;
                return fill(&self.filler(), 0);
            }
        }
        bail!("the disk does not get full")
    }

    fn filler(&self) -> PathBuf {
        self.disk.path().join("filler")
    }

    fn instance(&self, node: u16) -> anyhow::Result<u128> {
        let lease = self.acknowledged.get(&format!("n{node}")).context("it has no lease")?;
        Ok(u128::from_str_radix(&lease.instance_id, 16)?)
    }

    fn pid(&self) -> anyhow::Result<u32> {
        let process = self.deployment.control.process.as_ref().context("it does not run")?;
        ensure!(process.exit_status().is_none(), "it has ended");
        Ok(process.pid())
    }

    async fn started(&self) -> anyhow::Result<(i64, i32)> {
        started_at(&self.admin).await
    }

    /// Health, metrics and status say what is wrong; liveness does not.
    async fn names_the_cause(&self) -> anyhow::Result<()> {
        let control = &self.deployment.control;
        let unready = wait::until("/readyz to say no", PATIENCE, async || {
            let (status, body) = control.get("/readyz").await?;
            ensure!(status == StatusCode::SERVICE_UNAVAILABLE, "{status}: {body}");
            anyhow::Ok(body)
        });
        let body = unready.await?;
        ensure!(body.contains(CAUSE), "/readyz does not name the cause: {body}");
        ensure!(control.get("/livez").await?.0 == StatusCode::OK);
        let (_, metrics) = control.get("/metrics").await?;
        ensure!(metrics.contains("\nloden_store_healthy 0\n"), "{metrics}");
        let mut cluster = ClusterServiceClient::new(self.admin.clone());
        let status = cluster.get_cluster_status(v1::GetClusterStatusRequest {}).await?.into_inner();
        ensure!(status.store_failure.contains(CAUSE), "{status:?}");
        Ok(())
    }

    /// Everything that needs no writing is answered, to old and to new connections.
    async fn reads_go_on(&self) -> anyhow::Result<()> {
        self.nothing_is_lost().await?;
        let node = self.deployment.control.channel(&self.identities[0]).await?;
        let mut follower = Follower::node(NETWORK, self.instance(0)?);
        follower.open(&node).await?;
        ensure!(follower.next().await? == Seen::Snapshot { adopting: false });
        ensure!(follower.peers.len() == usize::from(NODES) - 1, "{:?}", follower.peers);
        // What the disk covers already is renewed, and an agent that starts again gets its lease.
        let lease = &self.acknowledged["n0"];
        let renewal = v1::RenewLeaseRequest { name: lease.name.clone(), epoch: lease.epoch };
        LeaseServiceClient::new(node.clone()).renew_lease(renewal).await?;
        let endpoint = lease.endpoint.clone().unwrap_or_default();
        let again = client::acquire(&node, NETWORK, self.instance(0)?, endpoint).await?;
        ensure!(again == *lease, "{again:?}");
        Ok(())
    }

    /// Every lease is as it was acknowledged last, or as somebody asked for since.
    async fn nothing_is_lost(&self) -> anyhow::Result<()> {
        let leases = client::leases(&self.admin).await?;
        ensure!(leases.len() == self.acknowledged.len(), "{leases:?}");
        for lease in leases {
            let (_, node) = client::parts(&lease.name)?;
            let acknowledged = self.acknowledged.get(node).with_context(|| format!("{node} is new"))?;
            let asked = self.refused.get(node).is_some_and(|asked| asked.contains(&lease.instance_id));
            ensure!(lease.subnets == acknowledged.subnets, "it was {acknowledged:?}, it is {lease:?}");
            ensure!(lease == *acknowledged || asked, "it was {acknowledged:?}, it is {lease:?}");
        }
        Ok(())
    }
}

async fn started_at(admin: &Channel) -> anyhow::Result<(i64, i32)> {
    let mut cluster = ClusterServiceClient::new(admin.clone());
    let status = cluster.get_cluster_status(v1::GetClusterStatusRequest {}).await?.into_inner();
    let time = status.start_time.ok_or_else(|| anyhow!("no start time is told"))?;
    Ok((time.seconds, time.nanos))
}

fn refused_for_its_cause(status: &Status) -> anyhow::Result<()> {
    ensure!(status.code() == Code::Unavailable, "{status:?}");
    ensure!(Reason::StoreFailed.is_of(status), "{status:?}");
    ensure!(status.message().contains(CAUSE), "the message does not name the cause: {status:?}");
    ensure!(reason::retry_after(status).is_some(), "no time to come back is told: {status:?}");
    Ok(())
}

/// Leaves `spare` bytes free, as near as whole pages allow.
fn fill(filler: &Path, spare: u64) -> anyhow::Result<()> {
    let mut file = File::options().create(true).append(true).open(filler)?;
    loop {
        match file.write(&[0xee; 4096]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => break,
            Err(error) => return Err(error.into()),
        }
    }
    let length = file.metadata()?.len();
    Ok(file.set_len(length.saturating_sub(spare))?)
}
