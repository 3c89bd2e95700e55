//! The packet filter beside the networks: what is put there, kept there, and told of others.

use std::collections::BTreeSet;
use std::time::Duration;

use loden_datapath::Hint;
use loden_datapath::firewall::Edit;
use loden_datapath::firewall::chains::{Base, Chain, ChainId, Hook, Rule, Verdict};
use loden_datapath::tables::{AddressKey, Lifetime};
use loden_proto::model::{Masquerade, Network};
use tokio::time::{Instant, sleep};

use super::settle;
use crate::testing::{World, network};

fn masquerading() -> Network {
    Network { masquerade: Some(Masquerade::default()), ..network() }
}

/// What Docker does to a host.
fn drops() -> Vec<Chain> {
    let id = ChainId { family: "ip".into(), table: "filter".into(), name: "FORWARD".into() };
    vec![Chain {
        id,
        base: Some(Base { hook: Hook::Forward, drops: true, tracked: true }),
        rules: Vec::new(),
    }]
}

#[tokio::test(start_paused = true)]
async fn a_network_that_does_not_masquerade_leaves_the_filter_alone() {
    let mut world = World::new();
    let (_agent, _watch) = world.ready_with(&[1], 1).await;
    settle().await;
    assert_eq!((world.firewall.listed(), world.firewall.replaced()), (None, 0));
    assert!(world.subnet_env().contains("FLANNEL_IPMASQ=false"));
}

#[tokio::test(start_paused = true)]
async fn rules_are_there_before_the_agent_is_ready_and_back_when_somebody_flushes_them() {
    let mut world = World::with(masquerading());
    world.firewall.fail(Some("the kernel has no NAT"));
    let agent = world.start();
    let mut watch = world.watch().await;
    world.snapshot(&watch, &[1], false, 1).await;
    let text = agent.told(|_, text| text.contains("not masqueraded:")).await;
    assert!(text.contains("the kernel has no NAT") && !world.subnet_file().exists(), "{text}");
    world.firewall.fail(None);
    agent.ready().await;
    assert!(world.subnet_env().contains("FLANNEL_IPMASQ=true"));
    let table = world.firewall.listed().unwrap();
    assert!(table.contains("ip daddr { 10.244.9.0/24 } return"), "{table}");

    for change in [None, Some("table inet loden { }")] {
        world.firewall.change(change);
        sleep(Duration::from_millis(300)).await;
        assert_eq!(world.firewall.listed(), Some(table.clone()));
    }
    let replaced = world.firewall.replaced();
    settle().await;
    assert_eq!(world.firewall.replaced(), replaced, "it fights nobody, least of all itself");

    // The policy changes while the network runs.
    world.network.revision += 1;
    world.network.masquerade = Some(Masquerade::new(vec!["192.168.0.0/16".parse().unwrap()], true).unwrap());
    watch.snapshot(&world.network, &[], false, 2).await;
    settle().await;
    let table = world.firewall.listed().unwrap();
    assert!(table.contains("192.168.0.0/16, 224.0.0.0/4 } masquerade fully-random"), "{table}");

    // The agent ends and comes back without its control plane. It finds its rules as it left them, or else puts them
    // in place again.
    world.server.up(false);
    drop(watch);
    agent.stop().await;
    let replaced = world.firewall.replaced();
    for (changed, writes) in [(false, 0), (true, 1)] {
        if changed {
            world.firewall.change(Some("table inet loden { }"));
        }
        let agent = world.start();
        agent.ready().await;
        settle().await;
        assert_eq!(world.firewall.listed(), Some(table.clone()));
        assert_eq!(world.firewall.replaced(), replaced + writes, "changed meanwhile: {changed}");
        agent.stop().await;
    }
    let agent = world.start();
    agent.ready().await;
    world.server.up(true);
    watch = world.watch().await;
    world.network.revision += 1;
    world.network.masquerade = None;
    world.snapshot(&watch, &[], false, 3).await;
    settle().await;
    assert_eq!(world.firewall.listed(), None);
}

#[tokio::test(start_paused = true)]
async fn a_filter_that_does_not_answer_is_told_of_until_it_does() {
    const LATE: &str = "nft has not answered for 5s";
    let mut world = World::with(masquerading());
    world.firewall.hang(true);
    let agent = world.start();
    let watch = world.watch().await;
    world.snapshot(&watch, &[1], false, 1).await;
    let begin = Instant::now();
    agent.told(|ready, text| !ready && text.contains("not masqueraded") && text.contains(LATE)).await;
    assert!(begin.elapsed() < Duration::from_secs(6), "{:?}", begin.elapsed());
    world.firewall.hang(false);
    agent.told(|ready, text| ready && !text.contains(LATE)).await;

    // While it forwards that is a warning.
    world.firewall.hang(true);
    world.firewall.change(None);
    agent.told(|ready, text| ready && text.contains(LATE)).await;
    world.firewall.hang(false);
    agent.told(|ready, text| ready && !text.contains(LATE)).await;
    assert!(world.firewall.listed().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_drops_our_packets_is_named_until_it_accepts_them() {
    let mut world = World::new();
    let (agent, _watch) = world.ready_with(&[1], 1).await;
    world.firewall.change_others(drops());
    let text = agent.told(|_, text| text.contains("warning")).await;
    let named =
        "the chain FORWARD of the table ip filter drops what pods send each other (its policy is drop)";
    assert!(text.contains(named) && text.contains("--firewall-insert"), "{text}");
    assert!(agent.overview().borrow().unready().is_none());
    assert_eq!(world.firewall.edits(), []);
    let mut open = drops();
    open[0].rules.push(Rule { handle: 3, comment: None, tests: Vec::new(), verdict: Some(Verdict::Accept) });
    world.firewall.change_others(open);
    agent.told(|ready, text| ready && !text.contains("warning")).await;
}

#[tokio::test(start_paused = true)]
async fn rules_are_put_into_such_a_chain_only_when_asked_for() {
    let mut world = World::new();
    world.firewall_insert = true;
    world.firewall.change_others(drops());
    let (_agent, _watch) = world.ready_with(&[1], 1).await;
    settle().await;
    let pool = |edit: &Edit| matches!(edit, Edit::Insert(chain, accept) if chain.name == "FORWARD" && accept.to_string().contains("10.244.0.0/16"));
    let edits = world.firewall.edits();
    assert!(edits.len() >= 2 && edits.iter().all(pool), "{edits:?}");
}

#[tokio::test(start_paused = true)]
async fn forwarding_that_is_switched_off_is_a_warning_until_it_is_on() {
    let mut world = World::new();
    let (agent, _watch) = world.ready_with(&[1], 1).await;
    world.kernel.change_facts(|host| host.forwards.clear());
    world.kernel.hint(&Hint::Settings);
    let text = agent.told(|_, text| text.contains("net.ipv4.ip_forward is 0")).await;
    assert!(agent.overview().borrow().unready().is_none(), "{text}");
    world.kernel.change_facts(|host| host.forwards = crate::testing::facts("192.0.2.9").forwards);
    world.kernel.hint(&Hint::Settings);
    agent.told(|_, text| !text.contains("ip_forward")).await;
}

#[tokio::test(start_paused = true)]
async fn the_pods_bridge_is_known_when_it_appears() {
    let mut world = World::new();
    let (agent, _watch) = world.ready_with(&[1], 1).await;
    let mut bridge = crate::testing::facts("10.244.9.1").interfaces.remove(0);
    bridge.name = "cni0".parse().unwrap();
    let key = AddressKey::new(bridge.name, "10.244.9.1/24".parse().unwrap());
    world.kernel.change_facts(|host| host.interfaces.push(bridge));
    world.kernel.hint(&Hint::Address(key, Lifetime::Infinite));
    let mut overview = agent.overview();
    let there = overview.wait_for(|overview| !overview.applied.devices.pods.is_empty()).await.unwrap();
    assert_eq!(there.applied.devices.pods, BTreeSet::from(["cni0".to_owned()]));
    assert_eq!(there.applied.devices.links, BTreeSet::from(["loden1a".to_owned()]));
}
