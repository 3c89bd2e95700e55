//! One command makes a token, one makes a host a node; one shuts it out.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use ipnet::IpNet;
use loden_tests::deployment::{Deployment, Node};
use loden_tests::hosts::{Host, route_prefix};
use loden_tests::traffic::Ping;
use loden_tests::wait;

use super::SOON;

/// A second, and what a busy machine adds to it.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Whether a host has a route to another one's subnet.
async fn leads(host: &Host, subnet: IpNet) -> anyhow::Result<bool> {
    let routes = host.routes().await?;
    Ok(routes.iter().filter_map(route_prefix).any(|prefix| prefix == subnet.trunc()))
}

async fn until_it_leads(host: &Host, subnet: IpNet, wanted: bool) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    wait::until("the route to change", SOON, async || {
        ensure!(leads(host, subnet).await? == wanted, "it is {}there", if wanted { "not " } else { "" });
        anyhow::Ok(())
    })
    .await?;
    Ok(begun.elapsed())
}

async fn joined(deployment: &Deployment, name: &str, number: u8) -> anyhow::Result<Node> {
    let mut node = deployment.prepare_host(name, number).await?;
    let token = deployment.token(&["--node", name]).await?;
    let output = node.join(&token).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    ensure!(!said.contains(&token), "the token is in the log: {said}");
    node.start()?;
    node.ready(SOON).await?;
    Ok(node)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_joins_is_shut_out_and_comes_back_to_its_own_subnet() -> anyhow::Result<()> {
    let mut deployment = Deployment::prepare("joining", &[]).await?;
    let log = deployment.lab.directory().join("decisions");
    deployment.control.log = Some(log.clone());
    deployment.control.start().await?;
    deployment.create_network("default", "10.244.0.0/16").await?;
    let a = joined(&deployment, "a", 11).await?;
    let b = joined(&deployment, "b", 12).await?;
    let pods = [a.attach("pod-a").await?, b.attach("pod-b").await?];
    let target = pods[1].addresses().next().unwrap();
    let ping = Ping::to(target).interval(Duration::from_millis(5)).start(&pods[0])?;
    ping.reach(SOON).await?;
    for file in ["identity/tls.key", "identity/tls.crt", "identity/ca.crt"] {
        let mode = std::fs::metadata(b.home.join(file))?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "{file} is {mode:o}");
    }

    let subnet = b.subnet_env()?.subnet;
    let revoked = deployment.lodenctl_json(&["node", "revoke", "b"]).await?;
    ensure!(revoked["epoch"] == 1 && revoked["leases"] == 1, "{revoked}");
    let gone = until_it_leads(&a.host, subnet, false).await?;
    println!("its peer has forgotten it {gone:?} after the answer");
    ensure!(gone < AT_ONCE, "{gone:?}");
    let status = deployment.lodenctl(&["node", "list"]).await?;
    ensure!(status.contains("revoked"), "{status}");
    // What it has forwards as it did.
    ensure!(leads(&b.host, a.subnet_env()?.subnet).await?, "its own routes are gone");
    wait::until("it to say why it is away", SOON, async || {
        let (_, said) = b.get("/readyz").await?;
        ensure!(said.contains("revoked"), "{said}");
        anyhow::Ok(())
    })
    .await?;

    wait::until("it to be refused in the handshake", SOON, async || {
        ensure!(
            std::fs::read_to_string(&log)?.contains("a host as spiffe://demo/node/b"),
            "it has not dialled"
        );
        anyhow::Ok(())
    })
    .await?;
    let other = deployment.token(&[]).await?;
    let refused = b.join(&other).await?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(1) && said.contains("lodenctl token create --node b"), "{said}");
    let own = deployment.token(&["--node", "b"]).await?;
    let output = b.join(&own).await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The agent finds that out by itself.
    until_it_leads(&a.host, subnet, true).await?;
    ensure!(b.subnet_env()?.subnet == subnet);
    ping.reach(SOON).await?;
    let again = b.join(&own).await?;
    ensure!(!again.status.success(), "the token was spent");
    decisions(&std::fs::read_to_string(log)?, &own)
}

/// Looks whether every decision is in the control plane's log, and no secret.
fn decisions(log: &str, token: &str) -> anyhow::Result<()> {
    let (admin, b, host) =
        ("who=spiffe://demo/admin/admin ", "who=spiffe://demo/node/b ", "who=a host from=192.0.2.12:");
    let (allowed, denied) = (r#"decision="allowed""#, r#"decision="denied" reason="#);
    for (parts, count) in [
        ([admin, r#"what="CreateNetwork" to="networks/default""#, allowed], 1),
        ([admin, r#"what="CreateJoinToken" to="tokens/"#, r#" for nodes/b" decision="allowed""#], 2),
        ([host, r#"what="Join" to="nodes/b with tokens/"#, allowed], 2),
        ([host, r#"what="Join" to="nodes/b with tokens/"#, r#"decision="denied" reason="node: "#], 1),
        ([host, r#"what="Join" to="nodes/b with tokens/"#, r#"decision="denied" reason="token: "#], 1),
        ([b, "from=192.0.2.12:", r#"what="connect" decision="allowed""#], 2),
        ([admin, r#"what="RevokeNode" to="nodes/b""#, allowed], 1),
        ([b, r#"what="stay connected""#, r#"decision="denied" reason="the node was revoked""#], 1),
        (["who=a host as spiffe://demo/node/b ", r#"what="handshake""#, denied], 1),
    ] {
        let has_all =
            |line: &&str| line.contains("loden::audit") && parts.iter().all(|part| line.contains(part));
        let found = log.lines().filter(has_all).count();
        ensure!(found >= count, "{parts:?} is there {found} times, in: {log}");
    }
    let secret = token.split('.').nth(1).context("a token without a secret")?;
    ensure!(!log.contains(secret) && !log.contains("PRIVATE KEY"), "a secret is in the log");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_joins_by_itself_with_the_token_of_its_settings() -> anyhow::Result<()> {
    let deployment = Deployment::start("selfjoin", &[]).await?;
    deployment.create_network("blue", "10.244.0.0/16").await?;
    deployment.create_network("red", "10.245.0.0/16").await?;
    let mut node = deployment.prepare_host("a", 11).await?;
    let token = deployment.token(&["--network", "blue"]).await?;
    node.set_flags(&["--token", &token, "--node", "a", "--network", "blue,red"]);
    node.start()?;
    wait::until("the node to say where it may not be", SOON, async || {
        let (_, said) = node.get("/readyz").await?;
        ensure!(said.contains("nodes/a may have leases in blue only"), "{said}");
        anyhow::Ok(())
    })
    .await?;
    node.stop().await?;
    // The token is spent, and not needed any more.
    node.set_flags(&["--token", &token, "--network", "blue"]);
    node.start()?;
    node.ready(SOON).await?;
    Ok(())
}
