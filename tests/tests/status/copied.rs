//! A node's disk, or only its certificate, is copied to another host whose agent runs beside the node's own: the
//! copy is refused and named on both sides, and nobody else notices.

use std::time::Duration;

use anyhow::{Context, ensure};
use hyper::StatusCode;
use loden_datapath::tables::PROTOCOL;
use loden_tests::deployment::{Deployment, Node};
use loden_tests::traffic::Ping;
use loden_tests::wait;
use netlink_packet_route::route::RouteProtocol;

use crate::{CONVERGED, SOON, line, status};

/// Waits until a copy's `/readyz` says no, for this reason.
async fn is_not_ready(copy: &Node, says: &[&str]) -> anyhow::Result<()> {
    let refused = wait::until("the copy to be refused", SOON, async || {
        let (code, body) = copy.get("/readyz").await?;
        ensure!(code == StatusCode::SERVICE_UNAVAILABLE, "{code}: {body}");
        let missing: Vec<_> = says.iter().filter(|part| !body.contains(**part)).collect();
        ensure!(missing.is_empty(), "without {missing:?}: {body}");
        anyhow::Ok(())
    });
    Ok(refused.await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_refused_and_named_and_the_node_goes_on() -> anyhow::Result<()> {
    let deployment = Deployment::start("copied", &[]).await?;
    deployment.create_network("default", "10.244.0.0/16").await?;
    let (a, b) = (deployment.add_node("a", 11, &[]).await?, deployment.add_node("b", 12, &[]).await?);
    for node in [&a, &b] {
        node.ready(SOON).await?;
    }
    let pods = [a.attach("pod-a").await?, b.attach("pod-b").await?];
    let mut pings = Vec::new();
    for (from, to) in [(0, 1), (1, 0)] {
        let target = pods[to].addresses().next().expect("a pod has an address");
        Ping::to(target).start(&pods[from])?.reach(SOON).await?;
        pings.push(Ping::to(target).interval(Duration::from_millis(5)).start(&pods[from])?);
    }
    let deleted = b.host.route_deletions(RouteProtocol::Other(PROTOCOL))?;

    for (name, number, cloned_disk, says) in [
        (
            "disk",
            13,
            true,
            ["ANOTHER_INSTANCE: boot_id: another host at 192.0.2.11:", "was its disk copied?"],
        ),
        ("cert", 14, false, ["ANOTHER_INSTANCE: instance_id: ", "disk or certificate copied?"]),
    ] {
        let mut copy = deployment.prepare_copy(&a, name, number, cloned_disk).await?;
        let instance = |node: &Node| std::fs::read_to_string(node.home.join("state/instance"));
        copy.start()?;
        is_not_ready(&copy, &says).await?;
        ensure!((instance(&copy)? == instance(&a)?) == cloned_disk, "{name}");
        let address = format!("192.0.2.{number}:");
        let text = status(&deployment, &["Two agents with one identity", &address, CONVERGED], &[]).await?;
        let both = line(&text, &["a"]).unwrap_or_default();
        ensure!(both.contains("192.0.2.11:") && both.contains(&address), "{text}");
        let log = deployment.control.process.as_ref().context("the control plane runs")?.log().text()?;
        let warns = |line: &&str| line.contains("two agents have one identity") && line.contains(&address);
        let warned = log.lines().filter(warns).count();
        ensure!(warned == 1, "the server's log names the copy {warned} times:\n{log}");
        copy.stop().await?;
    }

    // The node itself was not asked to do anything, and still learns what is new.
    let c = deployment.add_node("c", 15, &[]).await?;
    c.ready(SOON).await?;
    status(&deployment, &[CONVERGED], &["Not converged"]).await?;
    ensure!(a.metric("loden_agent_peers").await? == 2.0);
    ensure!(a.metric("loden_agent_watches_opened_total").await? == 1.0, "its watch was lost");
    ensure!(deleted.seen().is_empty(), "b has deleted {:?}", deleted.seen());
    for ping in pings {
        let report = ping.stop().await?;
        ensure!(report.lost() == 0, "{} of {} pings lost", report.lost(), report.sent());
        ensure!(report.sent() > 100, "only {} pings", report.sent());
        println!("{} pings, none lost", report.sent());
    }
    Ok(())
}
