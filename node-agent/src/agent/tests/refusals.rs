//! A control plane that is there and refuses.

use loden_datapath::Hint;
use loden_proto::InvalidValue;
use loden_proto::reason::{self, Reason};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tonic::{Code, Status};

use crate::testing::{World, facts, peer};

const REFUSAL: &str =
    "control plane refuses: INVALID_FIELD: resume_token: \"07\" is not one (INVALID_ARGUMENT)";

fn invalid() -> Status {
    InvalidValue::new("07", "is not one").at("resume_token").into()
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_refuses_the_watch_is_not_called_away() {
    let mut world = World::new();
    let (agent, watch) = world.ready_with(&[1, 2], 1).await;
    world.server.refuse_watches(Some(invalid()));
    watch.end(invalid()).await;
    let text = agent.told(|_, text| text.contains("control plane")).await;
    assert_eq!(text, format!("default: 2 peers from server, {REFUSAL}"));
    world.server.up(false);
    let text = agent.told(|_, text| text.contains("control plane away")).await;
    assert!(!text.contains("INVALID_FIELD"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn an_acquire_that_is_refused_says_why_the_peers_are_not_known() {
    let world = World::new();
    world.server.grant(|_| Err(invalid()));
    let agent = world.start();
    let text = agent.told(|_, text| text.contains("control plane")).await;
    assert_eq!(text, format!("default: peers are not known yet: {REFUSAL}"));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_gets_no_watch_reports_why_and_stops_once_it_is_ready() {
    let mut world = World::new();
    world.kernel.change_facts(|host| host.interfaces[0].addresses.clear());
    let agent = world.start();
    let mut reports = world.server.reports();
    let reports = reports.wait_for(|reports| reports.len() == 2);
    let report = tokio::time::timeout(Duration::from_secs(60), reports).await.unwrap().unwrap().clone();
    assert!(report[1].not_ready_reason.contains("eth0 has no address"), "{:?}", report[1]);
    assert!(!report[1].ready && world.server.acquires().borrow().is_empty());

    world.kernel.change_facts(|host| *host = facts("192.0.2.9"));
    world.kernel.hint(&Hint::Overrun);
    let watch = world.watch().await;
    world.snapshot(&watch, &[1], false, 1).await;
    agent.ready().await;
    let mut reports = world.server.reports();
    let ready = reports.wait_for(|reports| reports.last().is_some_and(|last| last.ready)).await.unwrap();
    assert_eq!(ready.last().unwrap().not_ready_reason, "");
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_subnet_was_given_away_is_not_ready_and_keeps_its_datapath() {
    let mut world = World::new();
    let (agent, watch) = world.ready_with(&[1, 2], 1).await;
    let programmed = world.kernel.tables();
    let message = "no subnet is free";
    world.server.grant(move |_| Err(reason::status(Code::ResourceExhausted, Reason::Exhausted, message)));
    watch.end(reason::status(Code::FailedPrecondition, Reason::StaleEpoch, "the lease is gone")).await;
    let text = agent.not_ready().await;
    assert!(text.contains("EXHAUSTED: no subnet is free"), "{text}");
    assert_eq!(world.kernel.tables(), programmed);
}

/// Somebody new, and the operator ends adoption long before the time that was told.
#[tokio::test(start_paused = true)]
async fn a_node_that_waits_for_adoption_has_a_lease_soon_after_its_end() {
    let mut world = World::new();
    let adopted = Duration::from_secs(540);
    world.server.grant(move |_| {
        Err(reason::status_retry(Code::Unavailable, Reason::Adopting, "leases are collected", adopted))
    });
    let agent = world.start();
    agent.told(|_, text| text.contains("ADOPTING")).await;
    let network = world.network.clone();
    world.server.grant_lease(&network, peer(9).subnets, 1);
    let watch = tokio::time::timeout(Duration::from_secs(20), world.watch()).await.expect("it asks again");
    world.snapshot(&watch, &[1], false, 1).await;
    agent.ready().await;
}

/// The store is lost, the network is made again, with other pools first; leases are collected.
#[tokio::test(start_paused = true)]
async fn why_a_lost_lease_does_not_come_back_is_what_was_said_last_of_the_claim() {
    let mut world = World::new();
    let (agent, watch) = world.ready_with(&[1], 1).await;
    let missing = || reason::status(Code::NotFound, Reason::NotFound, "networks/default does not exist");
    let says = Arc::new(Mutex::new(missing()));
    let (told, adopted) = (Arc::clone(&says), Duration::from_secs(600));
    let adopting =
        move || reason::status_retry(Code::Unavailable, Reason::Adopting, "a claim is needed", adopted);
    let without_claim = adopting();
    world.server.refuse_acquires(move |request| {
        let told = told.lock().unwrap().clone();
        let unclaimed = told.code() == Code::InvalidArgument && request.claim.is_empty();
        Some(if unclaimed { without_claim.clone() } else { told })
    });
    world.server.refuse_watches(Some(missing()));
    watch.end(missing()).await;
    let text = agent.not_ready().await;
    assert_eq!(text, "default: NOT_FOUND: networks/default does not exist (NOT_FOUND)");

    *says.lock().unwrap() = InvalidValue::new("10.244.9.0/24", "is not a subnet").at("claim[0]").into();
    let text = agent.told(|_, text| !text.contains("NOT_FOUND")).await;
    let invalid = "default: INVALID_FIELD: claim[0]: \"10.244.9.0/24\" is not a subnet (INVALID_ARGUMENT)";
    assert_eq!(text, invalid);
    let mut acquires = world.server.acquires();
    let asked = acquires.borrow().len();
    let hidden = agent.told(|_, text| text != invalid);
    assert!(tokio::time::timeout(Duration::from_secs(100), hidden).await.is_err(), "it stays what is shown");
    let asked = acquires.wait_for(|acquires| acquires.len() >= asked + 12).await.unwrap()[asked..].to_vec();
    let unclaimed = asked.iter().filter(|request| request.claim.is_empty()).count();
    assert!(unclaimed <= 1, "{unclaimed} of {} were without the claim", asked.len());

    *says.lock().unwrap() = adopting();
    let text = agent.told(|_, text| !text.contains("INVALID_FIELD")).await;
    assert_eq!(text, "default: ADOPTING: a claim is needed (UNAVAILABLE)");
}
