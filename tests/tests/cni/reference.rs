//! The reference plugins with the agent's own configuration.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, ensure};
use loden_tests::{
    cni::PublishedPort,
    hosts::{cidr, ip},
    wait,
};

use crate::pods::{links, published, reaches, serve, who};
use crate::{Plugins, SOON, two_nodes};

const WEB: PublishedPort = PublishedPort { host: 8080, container: 80 };
/// The bridge of the first VNI.
const BRIDGE: &str = "lodenbr1";

#[tokio::test(flavor = "multi_thread")]
async fn pods_reach_each_other_and_published_ports_also_after_the_agent_was_killed() -> anyhow::Result<()> {
    let sets = [Some(Plugins::distribution()?), Plugins::built()];
    let stories = sets.iter().flatten().map(async |plugins| {
        // Past the test harness, which shows what a test prints only when it fails.
        writeln!(std::io::stderr(), "CNI test: reference plugins in {:?}", plugins.folders)?;
        story(plugins).await.with_context(|| format!("with {plugins:?}"))
    });
    futures_util::future::try_join_all(stories).await.map(drop)
}

async fn story(plugins: &Plugins) -> anyhow::Result<()> {
    let (deployment, a, mut b) = two_nodes("cni", &["10.244.0.0/16", "fd00:244::/48"]).await?;
    let runtimes = [plugins.runtime(&a, &a.cni_config_dir())?, plugins.runtime(&b, &b.cni_config_dir())?];
    let pod_a = deployment.lab.host("pod-a").build().await?;
    let pod_b = deployment.lab.host("pod-b").build().await?;
    let client = runtimes[0].add(&pod_a, &[])?;
    let server = runtimes[1].add(&pod_b, &[WEB])?;

    // An address of each of the node's subnets, and the MTU that the tunnel leaves.
    let env = b.subnet_env()?;
    let addresses = server.addresses()?;
    let [v4, v6] = addresses[..] else { anyhow::bail!("not one address per family: {addresses:?}") };
    ensure!(env.subnet.trunc().contains(&v4), "{v4} is not in {}", env.subnet);
    ensure!(env.subnet_v6.is_some_and(|subnet| subnet.trunc().contains(&v6)), "{v6}: {env:?}");
    for (namespace, link) in [(&*pod_b, "eth0"), (&*b.host, BRIDGE)] {
        ensure!(namespace.link_mtu(link).await? == 1450, "the MTU of {link} in {}", namespace.full_name());
    }
    let all_is_well = || -> anyhow::Result<()> {
        runtimes[0].check(&client, &[])?;
        runtimes[1].check(&server, plugins.unasked)
    };
    all_is_well()?;

    serve(&pod_b, WEB.container)?;
    let hosts = [a.host.clone(), b.host.clone(), deployment.control.host.clone()];
    let everybody_talks = async || -> anyhow::Result<()> {
        reaches(&pod_a, &addresses).await?;
        reaches(&pod_b, &client.addresses()?).await?;
        for address in [SocketAddr::new(v4, WEB.container), SocketAddr::new(v6, WEB.container)] {
            ensure!(who(&pod_a, address)? == "pod-b");
        }
        let outside = SocketAddr::new(ip("192.0.2.12"), WEB.host);
        for from in &hosts {
            ensure!(who(from, outside)? == "pod-b", "{} was led elsewhere", from.name());
        }
        Ok(())
    };
    everybody_talks().await?;
    b.kill9().await?;
    everybody_talks().await?;
    b.start()?;
    b.ready(SOON).await?;
    everybody_talks().await?;
    all_is_well()?;

    let before = links(&b.host).await?;
    let late = deployment.lab.host("late").build().await?;
    let latecomer = runtimes[1].add(&late, &[])?;
    reaches(&pod_a, &latecomer.addresses()?).await?;
    runtimes[1].del(&latecomer)?;
    ensure!(links(&b.host).await? == before, "{:?} instead of {before:?}", links(&b.host).await?);

    runtimes[0].del(&client)?;
    runtimes[1].del(&server)?;
    for (node, runtime) in [&a, &b].into_iter().zip(&runtimes) {
        let left = links(&node.host).await?;
        let ours: Vec<_> = left.iter().map(String::as_str).collect();
        ensure!(ours == ["eth0", "lo", "loden1a", BRIDGE], "on {}: {left:?}", node.name);
        ensure!(runtime.taken()?.is_empty(), "on {}: {:?}", node.name, runtime.taken()?);
        ensure!(published(&node.host)?.is_empty(), "on {}: {:?}", node.name, published(&node.host)?);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_network_has_a_bridge_of_its_own_and_the_first_one_is_taken() -> anyhow::Result<()> {
    let (deployment, mut a, _b) = two_nodes("cni-two", &["10.244.0.0/16"]).await?;
    deployment.lodenctl(&["network", "create", "blue", "--pool", "10.8.0.0/16", "--mtu", "1300"]).await?;
    a.stop().await?;
    a.set_flags(&["--network", "default,blue"]);
    a.start()?;
    a.ready(SOON).await?;
    let names = |node: &loden_tests::deployment::Node| -> anyhow::Result<Vec<String>> {
        let entries = std::fs::read_dir(node.cni_config_dir())?.collect::<Result<Vec<_>, _>>()?;
        let mut names: Vec<_> =
            entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        Ok(names)
    };
    ensure!(names(&a)? == ["10-loden-default.conflist", "20-loden-blue.conflist"], "{:?}", names(&a)?);
    let runtime = Plugins::distribution()?.runtime(&a, &a.cni_config_dir())?;
    ensure!(runtime.list()?["name"] == "loden-default", "{}", runtime.list()?);

    a.stop().await?;
    a.set_flags(&["--network", "blue,default"]);
    a.start()?;
    a.ready(SOON).await?;
    ensure!(names(&a)? == ["10-loden-blue.conflist", "20-loden-default.conflist"], "{:?}", names(&a)?);
    let pod = deployment.lab.host("pod").build().await?;
    let attachment = runtime.add(&pod, &[])?;
    let addresses = attachment.addresses()?;
    ensure!(addresses.iter().all(|address| cidr("10.8.0.0/16").contains(address)), "{addresses:?}");
    ensure!(pod.link_mtu("eth0").await? == 1300, "{}", pod.link_mtu("eth0").await?);
    ensure!(links(&a.host).await?.contains("lodenbr2"), "{:?}", links(&a.host).await?);

    // The node's state is lost: until it has a subnet again there is nothing to attach pods by.
    a.kill9().await?;
    std::fs::remove_dir_all(a.home.join("state"))?;
    let mut deployment = deployment;
    deployment.control.kill9().await?;
    a.start()?;
    let gone = wait::until("the configurations to go", SOON, async || match names(&a) {
        Ok(names) if names.is_empty() => Ok(()),
        names => Err(format!("{names:?}")),
    });
    gone.await?;
    deployment.control.start().await?;
    a.ready(SOON).await?;
    ensure!(names(&a)?.len() == 2, "{:?}", names(&a)?);
    let again: Vec<IpAddr> = attachment.addresses()?;
    runtime.del(&attachment).with_context(|| format!("to detach {again:?}"))?;
    Ok(())
}
