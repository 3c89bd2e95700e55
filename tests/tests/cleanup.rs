//! `loden-agent cleanup` on a real host: everything of ours goes, and nothing else; not while an agent runs.

#![cfg(test)]

use std::fs;
use std::process::Output;
use std::time::Duration;

use anyhow::ensure;
use loden_tests::deployment::{Deployment, Node};
use loden_tests::hosts::{cidr, ip};
use loden_tests::wait;

const SOON: Duration = Duration::from_secs(30);
/// Of somebody else on the same host.
const STRANGERS: &str = "\
table ip filter { chain FORWARD { type filter hook forward priority filter; policy drop;
  ip saddr 10.9.0.0/16 accept comment \"loden-agent pods, by hand\"; }; }
table ip loden { chain c { ip daddr 10.8.0.1 drop; }; }
";

/// Runs the node's agent with its own settings, and with a command.
fn cleanup(node: &Node) -> anyhow::Result<Output> {
    let mut command = node.command();
    command.arg("cleanup");
    Ok(node.host.enter(|| command.output())?)
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_cleaned_of_everything_of_ours_and_of_nothing_else() -> anyhow::Result<()> {
    let deployment = Deployment::start("cleanup", &[]).await?;
    let pools = ["--pool", "10.244.0.0/16", "--pool", "fd00:244::/48", "--masquerade"];
    deployment.lodenctl(&[&["network", "create", "default"], &pools[..]].concat()).await?;
    let b = deployment.add_node("b", 12, &[]).await?;
    let mut a = deployment.prepare_node("a", 11, &["--firewall-insert", "--blackhole-route"]).await?;
    a.host.nft(STRANGERS)?;
    a.host.add_bridge("loden-br", 1500).await?;
    a.host.add_address("loden-br", cidr("10.200.0.1/24")).await?;
    a.host.add_route(cidr("198.51.100.0/24"), ip("192.0.2.1")).await?;
    let (before, rules) = (a.host.inventory().await?, a.host.nft("list ruleset")?);

    a.start()?;
    for node in [&a, &b] {
        node.ready(SOON).await?;
    }
    let strange = a.cni_config_dir().join("10-flannel.conflist");
    fs::write(&strange, "{}")?;
    let settled = wait::until("rules of ours in the chain of others", SOON, async || {
        let rules = a.host.nft("list ruleset")?;
        ensure!(
            rules.matches("\"loden-agent: ").count() == 2 && rules.contains("table inet loden"),
            "{rules}"
        );
        Ok::<_, anyhow::Error>(())
    });
    settled.await?;
    let kinds = a.host.routes().await?.into_iter().map(|route| format!("{:?}", route.header.kind));
    ensure!(kinds.filter(|kind| kind == "BlackHole").count() == 2);
    ensure!(a.subnet_file().exists());

    let refused = cleanup(&a)?;
    ensure!(refused.status.code() == Some(1) && refused.stdout.is_empty(), "{refused:?}");
    ensure!(printed(&refused).contains("an agent runs, process "), "{refused:?}");
    ensure!(a.host.link("loden1a").await.is_ok() && a.subnet_file().exists());

    a.stop().await?;
    let done = cleanup(&a)?;
    println!("{}", printed(&done));
    ensure!(done.status.code() == Some(0) && done.stderr.is_empty(), "{done:?}");
    for part in [
        "device loden1a",
        "table inet loden",
        "2 rules in the chain FORWARD",
        "subnet.env",
        "conflist",
        "state in",
    ] {
        ensure!(printed(&done).contains(part), "{part} is not told of: {done:?}");
    }
    let now = a.host.inventory().await?;
    let (gone, new): (Vec<_>, Vec<_>) =
        (before.difference(&now).collect(), now.difference(&before).collect());
    ensure!(gone.is_empty() && new.is_empty(), "gone: {gone:#?}, new: {new:#?}");
    ensure!(a.host.nft("list ruleset")? == rules);
    ensure!(strange.exists() && a.home.join("identity/tls.key").exists());
    ensure!(!a.subnet_file().exists() && !a.home.join("state").exists());

    let again = cleanup(&a)?;
    ensure!(again.status.code() == Some(0), "{again:?}");
    ensure!(printed(&again) == "nothing of Loden's was found\n", "{again:?}");

    // The same node again, as if nothing had been.
    a.start()?;
    a.ready(SOON).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_state_a_bridge_goes_by_the_cni_configuration_and_others_are_told() -> anyhow::Result<()>
{
    let deployment = Deployment::start("cleanup-lost", &[]).await?;
    deployment.create_network("default", "10.244.0.0/16").await?;
    let mut a = deployment.add_node("a", 11, &[]).await?;
    a.ready(SOON).await?;
    a.stop().await?;
    // As the bridge plugin would; the state directory is another one than the agent's.
    for bridge in ["lodenbr1", "lodenbr77"] {
        a.host.add_bridge(bridge, 1450).await?;
    }
    fs::rename(a.home.join("state"), a.home.join("elsewhere"))?;

    let done = cleanup(&a)?;
    let text = printed(&done);
    ensure!(done.status.code() == Some(0), "{done:?}");
    ensure!(
        text.contains("removed: device loden1a\n") && text.contains("removed: bridge lodenbr1\n"),
        "{text}"
    );
    ensure!(a.host.link("lodenbr1").await.is_err() && a.host.link("lodenbr77").await.is_ok(), "{text}");
    ensure!(text.contains("kept: bridge lodenbr77: neither the state in "), "{text}");
    ensure!(text.contains(": ip link delete lodenbr77\n"), "{text}");
    ensure!(text.contains("kept: ") && text.contains("subnet.env: it is not of a subnet"), "{text}");
    Ok(())
}
