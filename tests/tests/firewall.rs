//! The packet filter of real hosts: pods reach the world outside with their node's address, our table heals,
//! and chains of others that drop the pods' packets are named, or opened for who asks for it.
//!
//! ```text
//!  pod-a ── a ─┐ 192.0.2.0/24, 2001:db8:1::/64 ┌─ b ── pod-b
//!              ├───────────────────────────────┤
//!                 world .50, 192.168.0.9
//! ```

#![cfg(test)]

use std::fs::{self, Permissions};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::ensure;
use ipnet::IpNet;
use loden_tests::deployment::{Deployment, Node, Pair, Underlay};
use loden_tests::hosts::{Host, Namespace, Process, cidr, ip};
use loden_tests::wait;

const SOON: Duration = Duration::from_secs(30);
const POOLS: [&str; 4] = ["--pool", "10.244.0.0/16", "--pool", "fd00:244::/48"];
const WORLD: [&str; 2] = ["192.0.2.50", "2001:db8:1::50"];
/// What Docker and others do to a host.
const DROP: &str =
    "table ip filter { chain FORWARD { type filter hook forward priority filter; policy drop; }; }";
const DROPS: &str = "the chain FORWARD of the table ip filter drops what pods send each other";

/// Whom the receiver takes a datagram to be from.
fn seen(from: &Namespace, source: IpAddr, to: &Namespace, target: IpAddr) -> anyhow::Result<IpAddr> {
    let receiver = to.enter(|| UdpSocket::bind(SocketAddr::new(target, 0)))?;
    receiver.set_read_timeout(Some(Duration::from_secs(1)))?;
    let sender = from.enter(|| UdpSocket::bind(SocketAddr::new(source, 0)))?;
    let begin = Instant::now();
    loop {
        sender.send_to(b"who", receiver.local_addr()?)?;
        match receiver.recv_from(&mut [0; 8]) {
            Ok((_, address)) => return Ok(address.ip()),
            Err(error) => ensure!(begin.elapsed() < SOON, "{source} to {target}: {error}"),
        }
    }
}

/// Two ready nodes with a container each, and a host that is no node.
struct Stage {
    pair: Pair,
    world: Host,
}

async fn stage(name: &str, network: &[&str], flags_of_b: &[&str]) -> anyhow::Result<Stage> {
    let network = [&POOLS[..], network].concat();
    let pair = Pair::start_on(Underlay::V4, name, &network, |node| {
        if node.name == "b" {
            node.set_flags(flags_of_b);
        }
        Ok(())
    });
    let pair = pair.await?;
    let Pair { deployment, a, b, .. } = &pair;
    let world = deployment.lab.host("world").on(&deployment.fabric);
    let world = world.address(cidr("192.0.2.50/24")).address(cidr("2001:db8:1::50/64")).build().await?;
    for address in ["192.168.0.9/32", "fd00:9::9/128"] {
        world.add_address("eth0", cidr(address)).await?;
    }
    for (node, address) in [(a, "2001:db8:1::11/64"), (b, "2001:db8:1::12/64")] {
        node.host.add_address("eth0", cidr(address)).await?;
        for (net, gateway) in [("192.168.0.0/16", WORLD[0]), ("fd00:9::/32", WORLD[1])] {
            node.host.add_route(cidr(net), ip(gateway)).await?;
        }
    }
    for subnet in subnets(a)? {
        world
            .add_route(subnet, ip(if subnet.addr().is_ipv4() { "192.0.2.11" } else { "2001:db8:1::11" }))
            .await?;
    }
    Ok(Stage { pair, world })
}

fn subnets(node: &Node) -> anyhow::Result<Vec<IpNet>> {
    let env = node.subnet_env()?;
    Ok([Some(env.subnet), env.subnet_v6].into_iter().flatten().map(|subnet| subnet.trunc()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_meet_the_world_as_their_node_and_each_other_as_themselves() -> anyhow::Result<()> {
    let masquerade =
        ["--masquerade", "--masquerade-except", "192.168.0.0/16", "--masquerade-except", "fd00:9::/32"];
    let Stage { pair, world } = stage("masq", &masquerade, &[]).await?;
    let Pair { deployment, a, b, pods } = &pair;
    let env = fs::read_to_string(a.subnet_file())?;
    ensure!(env.contains("FLANNEL_IPMASQ=true\n"), "{env}");
    let (pod_a, pod_b): (Vec<_>, Vec<_>) = (pods[0].addresses().collect(), pods[1].addresses().collect());
    let spared = ["192.168.0.9", "fd00:9::9"];
    let check = |node: [&str; 2], spared_as: &[IpAddr]| -> anyhow::Result<()> {
        for family in 0..2 {
            let own = pod_a[family];
            ensure!(seen(&pods[0], own, &world, ip(WORLD[family]))? == ip(node[family]), "to the world");
            ensure!(seen(&pods[0], own, &pods[1], pod_b[family])? == own, "to another pod");
            ensure!(seen(&pods[0], own, &world, ip(spared[family]))? == spared_as[family], "to an exception");
            ensure!(seen(&world, ip(WORLD[family]), &pods[0], own)? == ip(WORLD[family]), "from the world");
        }
        Ok(())
    };
    check(["192.0.2.11", "2001:db8:1::11"], &pod_a)?;
    // The answer to the host itself comes back by the tunnel too.
    let tunnel = a.subnet_env()?.subnet.trunc().network();
    ensure!(seen(&a.host, ip("192.0.2.11"), &pods[1], pod_b[0])? == tunnel, "from the host");
    // So does the answer to the world, where it came by way of another node than the pod's.
    world.add_route(b.subnet_env()?.subnet.trunc(), ip("192.0.2.11")).await?;
    ensure!(seen(&world, ip(WORLD[0]), &pods[1], pod_b[0])? == tunnel, "from the world by way of the host");

    // Somebody flushes everything, again and again, and in the end without a pause: then the agent takes one.
    let table = a.host.nft("list table inet loden")?;
    let mut healed = Vec::new();
    for round in 0..20 {
        let begin = Instant::now();
        while round < 15 && begin.elapsed() < Duration::from_millis(200) {
            check(["192.0.2.11", "2001:db8:1::11"], &pod_a)?;
        }
        a.host.nft(if round % 2 == 0 { "flush ruleset" } else { "flush chain inet loden postrouting" })?;
        let begin = Instant::now();
        while a.host.nft("list table inet loden").ok().as_ref() != Some(&table) {
            let now = a.host.nft("list ruleset");
            ensure!(begin.elapsed() < SOON, "round {round}: our table does not come back: {table} {now:?}");
        }
        healed.push(begin.elapsed());
    }
    healed.sort();
    println!(
        "our table flushed: back after {:?}, at most {:?}",
        healed[healed.len() / 2],
        healed[healed.len() - 1]
    );
    ensure!(healed[healed.len() / 2] < Duration::from_secs(1), "{healed:?}");
    check(["192.0.2.11", "2001:db8:1::11"], &pod_a)?;

    // The policy changes while everything runs.
    deployment
        .lodenctl(&["network", "update", "default", "--masquerade", "--masquerade-random-fully"])
        .await?;
    let random = wait::until("rules without exceptions", SOON, async || {
        let table = a.host.nft("list table inet loden")?;
        ensure!(table.contains("fully-random") && !table.contains("192.168"), "{table}");
        Ok::<_, anyhow::Error>(())
    });
    random.await?;
    check(["192.0.2.11", "2001:db8:1::11"], &[ip("192.0.2.11"), ip("2001:db8:1::11")])?;
    deployment.lodenctl(&["network", "update", "default", "--no-masquerade"]).await?;
    let gone = wait::until("our table to go", SOON, async || {
        let rules = a.host.nft("list ruleset")?;
        ensure!(!rules.contains("loden"), "{rules}");
        Ok::<_, anyhow::Error>(())
    });
    gone.await?;
    for family in 0..2 {
        ensure!(seen(&pods[0], pod_a[family], &world, ip(WORLD[family]))? == pod_a[family]);
    }
    Ok(())
}

/// All that is written to the packet filter of a host from now on.
async fn monitor(host: &Host) -> anyhow::Result<Process> {
    let mut monitor = Command::new("nft");
    monitor.arg("monitor");
    let monitor = host.spawn("nft-monitor", monitor)?;
    let listens = wait::until("nft to listen", SOON, async || {
        host.nft("add table inet before; delete table inet before")?;
        ensure!(monitor.log().text()?.contains("inet before"), "it has heard nothing");
        Ok::<_, anyhow::Error>(())
    });
    listens.await?;
    Ok(monitor)
}

async fn nothing_written(monitor: &Process, host: &Host) -> anyhow::Result<()> {
    host.nft("add table inet after")?;
    monitor.wait_for_log("table inet after", SOON).await?;
    let heard = monitor.log().text()?;
    ensure!(!heard.contains("loden"), "the agent has written: {heard}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_comes_back_to_two_networks_writes_nothing() -> anyhow::Result<()> {
    let mut deployment = Deployment::start("masq-two", &[]).await?;
    let create = ["network", "create", "default", "--pool", "10.244.0.0/16", "--masquerade"];
    deployment.lodenctl(&create).await?;
    deployment.create_network("quiet", "10.9.0.0/16").await?;
    let mut a = deployment.add_node("a", 11, &["--network", "default,quiet"]).await?;
    a.ready(SOON).await?;
    // Both have a say.
    let noted = wait::until("the rules to be noted", SOON, async || {
        let noted = fs::read_to_string(a.home.join("state/packet-filter"))?;
        ensure!(noted.contains("10.9.0.0/16"), "{noted}");
        Ok::<_, anyhow::Error>(())
    });
    noted.await?;
    let monitor = monitor(&a.host).await?;
    // Which network is known first is chance,
    for _ in 0..4 {
        a.kill9().await?;
        a.start()?;
        a.ready(SOON).await?;
    }
    // but for the one that masquerades, where the disk knows nothing of the other one.
    a.kill9().await?;
    deployment.control.kill9().await?;
    fs::remove_file(a.home.join("state/networks/quiet.state"))?;
    a.start()?;
    let alone = wait::until("one network to be known", SOON, async || {
        let (_, text) = a.get("/readyz").await?;
        ensure!(text.contains("quiet: peers are not known") && !text.contains("masqueraded"), "{text}");
        Ok::<_, anyhow::Error>(())
    });
    alone.await?;
    deployment.control.start().await?;
    a.ready(SOON).await?;
    nothing_written(&monitor, &a.host).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nft_that_hangs_is_named_within_seconds() -> anyhow::Result<()> {
    let deployment = Deployment::start("masq-hang", &[]).await?;
    let create = ["network", "create", "default", "--pool", "10.244.0.0/16", "--masquerade"];
    deployment.lodenctl(&create).await?;
    let mut a = deployment.prepare_node("a", 11, &[]).await?;
    let (directory, hangs, hung) = (a.home.join("bin"), a.home.join("hangs"), a.home.join("hung"));
    fs::create_dir(&directory)?;
    let path = std::env::var("PATH")?;
    let script = format!(
        "#!/bin/sh\n[ -e {} ] && echo $$ >> {} && exec sleep 1000\nPATH={path} exec nft \"$@\"\n",
        hangs.display(),
        hung.display()
    );
    fs::write(directory.join("nft"), script)?;
    fs::set_permissions(directory.join("nft"), Permissions::from_mode(0o755))?;
    let mut environment = Command::new("env");
    environment.arg(format!("PATH={}:{path}", directory.display()));
    a.start_under(environment)?;
    a.ready(SOON).await?;

    fs::write(&hangs, "")?;
    a.host.nft("flush ruleset")?;
    let begin = Instant::now();
    let status = async |wanted: bool| {
        let said = wait::until("the status", SOON, async || {
            let text = deployment.lodenctl(&["status"]).await?;
            ensure!(text.contains("nft has not answered for 5s") == wanted, "{text}");
            Ok::<_, anyhow::Error>(())
        });
        said.await
    };
    status(true).await?;
    println!("nft hangs: said after {:?}", begin.elapsed());
    ensure!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    fs::remove_file(&hangs)?;
    for process in fs::read_to_string(&hung)?.lines() {
        Command::new("kill").arg(process).status()?;
    }
    status(false).await?;
    ensure!(a.host.nft("list table inet loden")?.contains("masquerade"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_stay_when_the_agent_is_killed_and_are_right_when_it_is_back_without_a_control_plane()
-> anyhow::Result<()> {
    let Stage { pair, world } = stage("masq-kill", &["--masquerade"], &[]).await?;
    let Pair { mut deployment, mut a, b: _b, pods } = pair;
    a.kill9().await?;
    deployment.control.kill9().await?;
    let own = pods[0].address();
    ensure!(seen(&pods[0], own, &world, ip(WORLD[0]))? == ip("192.0.2.11"));

    // Whoever comes back over his own rules leaves them as they are.
    let monitor = monitor(&a.host).await?;
    a.start()?;
    a.ready(SOON).await?;
    nothing_written(&monitor, &a.host).await?;
    a.kill9().await?;

    a.host.nft("flush ruleset")?;
    ensure!(seen(&pods[0], own, &world, ip(WORLD[0]))? == own);
    a.start()?;
    let text = a.ready(SOON).await?;
    ensure!(text.contains("from disk"), "{text}");
    ensure!(seen(&pods[0], own, &world, ip(WORLD[0]))? == ip("192.0.2.11"));
    Ok(())
}

/// Readiness is judged by a task of its own, soon after status and metrics know.
async fn ready_and_warns(node: &Node, of: &str) -> anyhow::Result<()> {
    let warns = wait::until("readiness to warn", SOON, async || {
        let text = node.ready(SOON).await?;
        ensure!(text.contains(of) && text.contains("--firewall-insert"), "{text}");
        Ok::<_, anyhow::Error>(())
    });
    Ok(warns.await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_drops_is_named_in_status_and_opened_by_who_was_asked_to() -> anyhow::Result<()> {
    let Stage { pair, world: _world } = stage("drop", &[], &["--firewall-insert"]).await?;
    let Pair { deployment, a, b, .. } = &pair;
    let status = async |wanted: &str, unwanted: &str| {
        let said = wait::until("the status", SOON, async || {
            let text = deployment.lodenctl(&["status"]).await?;
            ensure!(text.contains(wanted) && !(text.contains(unwanted)), "{text}");
            Ok::<_, anyhow::Error>(text)
        });
        said.await
    };
    let opened = async || {
        let opened = wait::until("rules of ours on b", SOON, async || {
            let rules = b.host.nft("list chain ip filter FORWARD")?;
            ensure!(rules.matches("comment \"loden-agent: ").count() == 2, "{rules}");
            Ok::<_, anyhow::Error>(())
        });
        opened.await
    };
    for node in [&a, &b] {
        node.host.nft(DROP)?;
    }
    opened().await?;
    // A warning is no failure.
    let text = status("Every node is converged.", "b     default  the chain").await?;
    println!("{text}");
    ensure!(text.contains("a     default  the chain FORWARD") && text.contains(DROPS), "{text}");
    ensure!(a.metric("loden_agent_warnings").await? == 1.0);
    ensure!(b.metric("loden_agent_warnings").await? == 0.0);
    ready_and_warns(a, DROPS).await?;
    ensure!(!a.host.nft("list chain ip filter FORWARD")?.contains("loden"), "a was not asked to");

    b.host.nft("flush chain ip filter FORWARD")?;
    opened().await?;
    // As an operator would, on a.
    a.host.nft("add rule ip filter FORWARD ip saddr 10.244.0.0/16 ip daddr 10.244.0.0/16 accept")?;
    status("Every node is converged.", DROPS).await?;
    pair.reaches().await?;

    a.host.sysctl("net.ipv4.ip_forward", "0")?;
    status("net.ipv4.ip_forward is 0", DROPS).await?;
    a.host.sysctl("net.ipv4.ip_forward", "1")?;
    status("Every node is converged.", "ip_forward").await?;
    a.host.sysctl("net.ipv4.conf.cni0.forwarding", "0")?;
    status("net.ipv4.conf.cni0.forwarding is 0: what its pods send is not forwarded", DROPS).await?;
    a.host.sysctl("net.ipv4.conf.cni0.forwarding", "1")?;
    status("Every node is converged.", "forwarding").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_before_routing_and_on_its_way_out_is_named_and_opened_by_who_was_asked_to()
-> anyhow::Result<()> {
    let Stage { pair, world: _world } = stage("hooks", &[], &["--firewall-insert"]).await?;
    let Pair { deployment, a, b, .. } = &pair;
    let walls = "table ip raw { chain PREROUTING { type filter hook prerouting priority raw; udp dport 8472 drop; }; }\n\
                 table inet wall { chain out { type filter hook output priority filter;\n\
                   udp dport 8472 drop; ip daddr 10.244.0.0/16 reject; }; }";
    for node in [&a, &b] {
        node.host.nft(walls)?;
    }
    let opened = wait::until("rules of ours on b", SOON, async || {
        let rules = b.host.nft("list ruleset")?;
        // Both of the port, and one of each pool.
        ensure!(rules.matches("comment \"loden-agent: ").count() == 4, "{rules}");
        Ok::<_, anyhow::Error>(())
    });
    opened.await?;
    let named = wait::until("the status", SOON, async || {
        let text = deployment.lodenctl(&["status"]).await?;
        for what in [
            "a     default  the chain PREROUTING of the table ip raw drops what other nodes send through the tunnel \
             before it is routed",
            "a     default  the chain out of the table inet wall drops what this host sends to pods",
            "a     default  the chain out of the table inet wall drops what this host sends through the tunnel",
        ] {
            ensure!(text.contains(what), "{what} is not in {text}");
        }
        ensure!(!text.contains("b     default"), "{text}");
        Ok::<_, anyhow::Error>(())
    });
    named.await?;
    ready_and_warns(a, "before it is routed").await?;
    ensure!(!a.host.nft("list ruleset")?.contains("loden-agent"), "a was not asked to");

    a.host.nft("delete table ip raw\ndelete table inet wall")?;
    pair.reaches().await?;
    Ok(())
}
