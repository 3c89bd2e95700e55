//! How an agent starts: with and without its control plane, over a kernel that is as it left it or
//! not. Real processes, pings through the real kernel, and strace beside the agent's own count.

#![cfg(test)]

mod left_behind;
mod leftovers;
mod name_taken;
mod read_only;
mod second;
mod trace;

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use hyper::StatusCode;
use ipnet::IpNet;
use loden_tests::{
    deployment::{Deployment, Node},
    hosts::{Host, Tunnel, ip},
    traffic::{Ping, RunningPing},
    wait,
};
use netlink_packet_route::route::RouteProtocol;
use nix::sys::signal::Signal;
use rtnetlink::LinkVxlan;

use crate::leftovers::{leave_stale_peer, put_foreign_things, put_foreign_things_without_device};
use crate::trace::Trace;

const SOON: Duration = Duration::from_secs(30);
const POOL: &str = "10.244.0.0/16";
/// The device of the first VNI.
const DEVICE: &str = "loden1a";
/// Our number in `rtm_protocol` and `NDA_PROTOCOL`.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(76);
const WRITES: &str = "loden_agent_kernel_writes_total";

async fn deployment(name: &str) -> anyhow::Result<Deployment> {
    let deployment = Deployment::start(name, &[]).await?;
    deployment.create_network("default", POOL).await?;
    Ok(deployment)
}

/// Waits until a node is ready and its kernel leads to so many peers.
async fn leads_to(node: &Node, peers: usize) -> anyhow::Result<Tunnel> {
    node.ready(SOON).await?;
    let what = format!("{} to lead to {peers} peers", node.name);
    let tunnel = wait::until(&what, SOON, async || {
        let tunnel = node.host.tunnel(DEVICE).await?;
        let counts = [tunnel.fdb.len(), tunnel.neighbours.len(), tunnel.routes.len()];
        ensure!(counts == [peers; 3], "it is {tunnel:?}");
        Ok(tunnel)
    });
    Ok(tunnel.await?)
}

/// Waits until `/readyz` says yes with this text in it.
async fn says(node: &Node, text: &str) -> anyhow::Result<String> {
    let what = format!("{} to say {text:?}", node.name);
    let said = wait::until(&what, SOON, async || {
        let (status, body) = node.get("/readyz").await?;
        ensure!(status == StatusCode::OK && body.contains(text), "it says {status}: {body}");
        Ok::<_, anyhow::Error>(body)
    });
    Ok(said.await?)
}

/// Lets the ping run on for a while: nothing is waited for but what does not happen.
async fn watch(ping: &RunningPing, time: Duration) -> anyhow::Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < time {
        ping.reach(SOON).await?;
    }
    Ok(())
}

async fn is_as_before(host: &Host, before: &BTreeSet<String>) -> anyhow::Result<()> {
    let now = host.inventory().await?;
    let (gone, new): (Vec<_>, Vec<_>) = (before.difference(&now).collect(), now.difference(before).collect());
    ensure!(gone.is_empty() && new.is_empty(), "in {}, gone: {gone:#?}, new: {new:#?}", host.name());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_starts_without_its_control_plane_writes_nothing_and_loses_no_packet()
-> anyhow::Result<()> {
    let mut deployment = Deployment::start("away", &[]).await?;
    deployment.lodenctl(&["network", "create", "default", "--pool", POOL, "--masquerade"]).await?;
    let directory = deployment.lab.directory().to_owned();
    let a = deployment.add_node("a", 11, &[]).await?;
    a.ready(SOON).await?;
    let mut b = deployment.prepare_node("b", 12, &[]).await?;

    // The first start has to write. It is what shows that the trace and the count see writes.
    let first = Trace::new(&directory, "first");
    b.start_under(first.strace())?;
    leads_to(&b, 1).await?;
    let c = deployment.add_node("c", 13, &[]).await?;
    for node in [&a, &b, &c] {
        leads_to(node, 2).await?;
    }
    let counted = wait::until("count and trace to agree", SOON, async || {
        let (count, traced) = (b.metric(WRITES).await?, first.writes()?);
        ensure!(count > 0.0 && count == traced.len() as f64, "{count} counted, traced: {traced:?}");
        Ok::<_, anyhow::Error>(traced)
    });
    println!("first start with 2 peers: {} netlink writes, counted and traced", counted.await?.len());
    let before_file = first.writes_before(&b.subnet_file())?;
    for kind in ["RTM_NEWLINK", "RTM_NEWNEIGH", "RTM_NEWROUTE"] {
        ensure!(before_file.iter().any(|write| write == kind), "subnet.env before {kind}: {before_file:?}");
    }
    ensure!(!first.settings_written()?.is_empty());
    let filter = first.filter_writes()?;
    for kind in ["NFT_MSG_NEWTABLE", "NFT_MSG_NEWRULE"] {
        ensure!(
            filter.iter().any(|write| write.ends_with(kind)),
            "no {kind} for the packet filter: {filter:?}"
        );
    }

    let (pod_a, pod_b) = (a.attach("pod-a").await?, b.attach("pod-b").await?);
    let warm = Ping::to(pod_b.address()).start(&pod_a)?;
    warm.reach(SOON).await?;
    warm.stop().await?;
    let left = b.host.inventory().await?;
    let file = fs::read_to_string(b.subnet_file())?;
    let rules = b.host.nft("list table inet loden")?;

    let ping = Ping::to(pod_b.address()).interval(Duration::from_millis(5)).start(&pod_a)?;
    watch(&ping, Duration::from_millis(500)).await?;
    ping.mark("control plane killed");
    deployment.control.kill9().await?;
    watch(&ping, Duration::from_secs(1)).await?;
    ping.mark("agent killed");
    b.kill9().await?;
    watch(&ping, Duration::from_millis(500)).await?;
    ping.mark("agent started");
    let second = Trace::new(&directory, "second");
    b.start_under(second.strace())?;
    let said = says(&b, "2 peers from disk").await?;
    ensure!(said.contains("control plane away"), "{said}");
    ping.mark("agent ready");
    watch(&ping, Duration::from_secs(2)).await?;
    ensure!(b.metric(WRITES).await? == 0.0, "{}", b.metric(WRITES).await?);
    is_as_before(&b.host, &left).await?;

    ping.mark("control plane started");
    deployment.control.start().await?;
    says(&b, "2 peers from server").await?;
    a.process.as_ref().context("the agent runs")?.wait_for_log("control plane back", SOON).await?;
    ping.mark("agent connected");
    watch(&ping, Duration::from_secs(1)).await?;
    ensure!(b.metric(WRITES).await? == 0.0, "{}", b.metric(WRITES).await?);
    let (writes, settings) = (second.writes()?, second.settings_written()?);
    ensure!(writes.is_empty() && settings.is_empty(), "traced: {writes:?} {settings:?}");
    let filter = second.filter_writes()?;
    ensure!(filter.is_empty(), "the packet filter was changed: {filter:?}");
    ensure!(second.requests()?.iter().any(|kind| kind.contains("NFT_MSG_GET")), "it was not even looked at");
    ensure!(b.host.nft("list table inet loden")? == rules);
    is_as_before(&b.host, &left).await?;
    ensure!(fs::read_to_string(b.subnet_file())? == file);

    // The agent that ran on has told of it in one line each, and of nothing twice.
    let log = a.process.as_ref().context("the agent runs")?.log();
    for (level, line) in [("WARN", "control plane away"), ("INFO", "control plane back after")] {
        let told: Vec<_> =
            log.text()?.lines().filter(|text| text.contains(line)).map(str::to_owned).collect();
        ensure!(told.len() == 1 && told[0].contains(level), "{line}: {told:#?}");
    }

    let report = ping.stop().await?;
    println!("{} reads, 0 writes; {report}", second.requests()?.len());
    ensure!(report.lost() == 0 && report.sent() >= 1000, "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_stale_goes_with_the_first_snapshot_and_not_before_it() -> anyhow::Result<()> {
    let mut deployment = deployment("stale").await?;
    let mut a = deployment.add_node("a", 11, &[]).await?;
    let b = deployment.add_node("b", 12, &[]).await?;
    let mut c = deployment.add_node("c", 13, &[]).await?;
    for node in [&a, &b, &c] {
        leads_to(node, 2).await?;
    }
    let subnet_b = b.subnet_env()?.subnet.trunc();
    let (pod_a, pod_b) = (a.attach("pod-a").await?, b.attach("pod-b").await?);
    let ping = Ping::to(pod_b.address()).start(&pod_a)?;
    ping.reach(SOON).await?;
    ping.stop().await?;
    let ping = Ping::to(pod_b.address()).interval(Duration::from_millis(5)).start(&pod_a)?;

    // While a's agent is down: c leaves, somebody has left more of ours behind, and others have
    // put theirs beside it.
    a.kill9().await?;
    c.kill9().await?;
    deployment.lodenctl(&["lease", "release", "default", "c"]).await?;
    leads_to(&b, 1).await?;
    deployment.control.kill9().await?;
    leave_stale_peer(&a.host).await?;
    let foreign = put_foreign_things(&a.host).await?;
    let left = a.host.inventory().await?;
    ensure!(a.host.tunnel(DEVICE).await?.routes.len() == 4, "{:?}", a.host.tunnel(DEVICE).await?);

    a.start()?;
    says(&a, "2 peers from disk").await?;
    watch(&ping, Duration::from_secs(1)).await?;
    ensure!(a.metric(WRITES).await? == 0.0, "{}", a.metric(WRITES).await?);
    is_as_before(&a.host, &left).await?;

    deployment.control.start().await?;
    says(&a, "1 peers from server").await?;
    let gone = wait::until("the stale peers to go", SOON, async || {
        let tunnel = a.host.tunnel(DEVICE).await?;
        let [fdb, routes] = [tunnel.fdb.len(), tunnel.routes.len()];
        // The others' neighbour and route on our device stay.
        ensure!([fdb, tunnel.neighbours.len(), routes] == [1, 2, 2], "{tunnel:?}");
        Ok(tunnel)
    });
    let tunnel = gone.await?;
    ensure!(tunnel.routes.contains_key(&subnet_b), "{tunnel:?}");
    ensure!(tunnel.fdb.values().eq(&[ip("192.0.2.12")]), "{tunnel:?}");
    let now = a.host.inventory().await?;
    let missing: Vec<_> = foreign.difference(&now).collect();
    ensure!(missing.is_empty(), "not ours and touched: {missing:?}");
    let new: Vec<_> = now.difference(&left).collect();
    ensure!(new.is_empty(), "new: {new:#?}");
    // Two peers of three entries each, and nothing else.
    ensure!(a.metric(WRITES).await? == 6.0, "{} writes", a.metric(WRITES).await?);

    let report = ping.stop().await?;
    println!("{report}");
    ensure!(report.lost() == 0, "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_knows_nothing_touches_nothing_and_is_not_ready() -> anyhow::Result<()> {
    let mut deployment = deployment("nothing").await?;
    deployment.control.kill9().await?;
    let mut a = deployment.prepare_node("a", 11, &[]).await?;
    put_foreign_things_without_device(&a.host).await?;
    let left = a.host.inventory().await?;
    a.start()?;
    let said = wait::until("the agent to say that it is not ready", SOON, async || {
        let (status, body) = a.get("/readyz").await?;
        ensure!(body.contains("peers are not known yet: "), "{status}: {body}");
        Ok::<_, anyhow::Error>((status, body))
    });
    let (status, body) = said.await?;
    ensure!(status == StatusCode::SERVICE_UNAVAILABLE, "{status}: {body}");
    ensure!(body.contains("192.0.2.1:7443"), "it names whom it cannot reach: {body}");
    ensure!(a.metric(WRITES).await? == 0.0);
    is_as_before(&a.host, &left).await?;
    ensure!(!a.subnet_file().exists());
    // And it comes up by itself.
    deployment.control.start().await?;
    a.ready(SOON).await?;
    ensure!(left.is_subset(&a.host.inventory().await?));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_not_ready_while_its_device_cannot_be_made() -> anyhow::Result<()> {
    let deployment = deployment("squatter").await?;
    let a = deployment.add_node("a", 11, &[]).await?;
    let b = deployment.add_node("b", 12, &[]).await?;
    for node in [&a, &b] {
        leads_to(node, 1).await?;
    }
    let (pod_a, pod_b) = (a.attach("pod-a").await?, b.attach("pod-b").await?);
    let ping = Ping::to(pod_b.address()).start(&pod_a)?;
    ping.reach(SOON).await?;

    // A device of somebody else takes VNI and port in the moment that ours is gone.
    let agent = a.process.as_ref().context("the agent runs")?;
    agent.signal(Signal::SIGSTOP)?;
    a.host.delete_link(DEVICE).await?;
    let squatter = LinkVxlan::new("squatter", 1).port(8472).local(Ipv4Addr::new(192, 0, 2, 11)).up();
    a.host.netlink().link().add(squatter.build()).execute().await?;
    agent.signal(Signal::SIGCONT)?;
    let said = wait::until("the agent to be no longer ready", SOON, async || {
        let (status, body) = a.get("/readyz").await?;
        ensure!(status == StatusCode::SERVICE_UNAVAILABLE, "{status}: {body}");
        Ok::<_, anyhow::Error>(body)
    });
    let said = said.await?;
    // The cause, not what follows from it.
    ensure!(said.contains(&format!("first + device {DEVICE}")), "{said}");
    ensure!(a.host.link("squatter").await.is_ok(), "somebody else's device");
    let shown = wait::until("lodenctl to show why", SOON, async || {
        let shown = deployment.lodenctl(&["status"]).await?;
        ensure!(
            shown.contains("not ready: ") && shown.contains(&format!("first + device {DEVICE}")),
            "{shown}"
        );
        Ok::<_, anyhow::Error>(shown)
    });
    println!("{}", shown.await?);

    a.host.delete_link("squatter").await?;
    let freed = Instant::now();
    a.ready(SOON + SOON).await?;
    println!("while it was taken: {said}; ready again {:?} after it was free", freed.elapsed());
    leads_to(&a, 1).await?;
    ping.reach(SOON).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_deleted_comes_back_with_everything_on_it() -> anyhow::Result<()> {
    let deployment = deployment("deleted").await?;
    let a = deployment.add_node("a", 11, &[]).await?;
    let b = deployment.add_node("b", 12, &[]).await?;
    for node in [&a, &b] {
        leads_to(node, 1).await?;
    }
    let (pod_a, pod_b) = (a.attach("pod-a").await?, b.attach("pod-b").await?);
    let ping = Ping::to(pod_b.address()).start(&pod_a)?;
    ping.reach(SOON).await?;
    let left = a.host.tunnel(DEVICE).await?;
    let told = b.metric(WRITES).await?;
    a.host.delete_link(DEVICE).await?;
    leads_to(&a, 1).await?;
    ping.reach(SOON).await?;
    ensure!(a.host.tunnel(DEVICE).await? == left);
    println!("the longest outage for the pods: {:?}", ping.stop().await?.longest_outage());
    // It has the same MAC address: there is nothing to tell the others.
    ensure!(b.metric(WRITES).await? == told);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn subnet_env_is_flannels_byte_for_byte() -> anyhow::Result<()> {
    let deployment = deployment("subnetenv").await?;
    let a = deployment.prepare_node("a", 11, &[]).await?;
    ensure!(!a.subnet_file().exists());
    let mut a = a;
    a.start()?;
    a.ready(SOON).await?;
    let lease = deployment.lodenctl_json(&["lease", "get", "default", "a"]).await?;
    let subnet: IpNet = lease["subnets"][0].as_str().context("a subnet")?.parse()?;
    let IpAddr::V4(base) = subnet.network() else { anyhow::bail!("{subnet}") };
    let first = Ipv4Addr::from(u32::from(base) + 1);
    let wanted = format!(
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET={first}/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"
    );
    let file = fs::read_to_string(a.subnet_file())?;
    ensure!(file == wanted, "{file:?} is not {wanted:?}");
    use std::os::unix::fs::PermissionsExt;
    ensure!(fs::metadata(a.subnet_file())?.permissions().mode() & 0o777 == 0o644);
    Ok(())
}
