//! Random commands against what must always hold, decided one by one, many ahead on a copy, or by two
//! replicas that do not see each other.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use loden_proto::model::{Endpoint, Epoch, Family, InstanceId, LeaseName, Subnets};
use proptest::collection::vec;
use proptest::prelude::*;

use super::testing::{Rig, name, set_pools, spec, subnets, with_vtep};
use super::{Command, Decision, Farewell, LeaseState, Ledger};
use crate::store::{Batch, RollingHash};

const NETWORKS: [&str; 2] = ["blue", "red"];
const NODES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const TTL: Duration = Duration::from_secs(60);
const COOLDOWN: Duration = Duration::from_secs(300);

/// What a step does; numbers choose among what there is.
#[derive(Clone, Debug)]
enum Step {
    Acquire {
        lease: (usize, usize),
        instance: u128,
        claim: Option<u8>,
        address: u8,
    },
    Renew {
        lease: (usize, usize),
    },
    Update {
        lease: (usize, usize),
        address: u8,
        stale: bool,
    },
    Release {
        lease: (usize, usize),
    },
    /// The first lease that is due.
    Expire,
    Reserve {
        lease: (usize, usize),
        slot: u8,
    },
    Unreserve {
        lease: (usize, usize),
    },
    Create {
        network: usize,
        wide: bool,
    },
    Widen {
        network: usize,
        wide: bool,
    },
    Delete {
        network: usize,
        force: bool,
    },
    ShutOut {
        node: usize,
        release: bool,
    },
    Begin {
        adopt: bool,
    },
    EndAdoption,
    Tidy,
    Pass {
        seconds: u64,
    },
    Stream {
        lease: (usize, usize),
        instance: Option<u128>,
    },
}

fn lease() -> impl Strategy<Value = (usize, usize)> {
    (prop_oneof![4 => Just(0), 1 => Just(1)], 0..NODES.len())
}

fn step() -> impl Strategy<Value = Step> {
    let claim = proptest::option::weighted(0.4, 1u8..4);
    // Mostly a node's own address, sometimes another's.
    let address = prop_oneof![8 => Just(0u8), 1 => 1u8..8];
    prop_oneof![
        12 => (lease(), 1u128..3, claim, address.clone())
            .prop_map(|(lease, instance, claim, address)| Step::Acquire { lease, instance, claim, address }),
        4 => lease().prop_map(|lease| Step::Renew { lease }),
        3 => (lease(), address, any::<bool>())
            .prop_map(|(lease, address, stale)| Step::Update { lease, address, stale }),
        4 => lease().prop_map(|lease| Step::Release { lease }),
        6 => Just(Step::Expire),
        2 => (lease(), 1u8..4).prop_map(|(lease, slot)| Step::Reserve { lease, slot }),
        2 => lease().prop_map(|lease| Step::Unreserve { lease }),
        2 => (0..2usize, any::<bool>()).prop_map(|(network, wide)| Step::Create { network, wide }),
        1 => (0..2usize, any::<bool>()).prop_map(|(network, wide)| Step::Widen { network, wide }),
        1 => (0..2usize, any::<bool>()).prop_map(|(network, force)| Step::Delete { network, force }),
        2 => (0..NODES.len(), any::<bool>()).prop_map(|(node, release)| Step::ShutOut { node, release }),
        1 => any::<bool>().prop_map(|adopt| Step::Begin { adopt }),
        1 => Just(Step::EndAdoption),
        2 => Just(Step::Tidy),
        6 => prop_oneof![1u64..30, 30u64..100, 250u64..400].prop_map(|seconds| Step::Pass { seconds }),
        2 => (lease(), proptest::option::of(1u128..3))
            .prop_map(|(lease, instance)| Step::Stream { lease, instance }),
    ]
}

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.defaults.lease_ttl = TTL;
    rig.defaults.cooldown = COOLDOWN;
    let [first, second] = [Step::Create { network: 0, wide: false }, Step::Create { network: 1, wide: true }];
    for step in [first, second] {
        let command = command(&mut rig, &step).unwrap();
        rig.must(command);
    }
    rig
}

fn pools(network: usize, wide: bool) -> Vec<&'static str> {
    let (v4, v6) =
        [("10.1.0.0/22", "2001:db8:1::/62 in /64"), ("10.2.0.0/22", "2001:db8:2::/62 in /64")][network];
    if wide { vec![v4, v6] } else { vec![v4] }
}

fn slots(network: usize, slot: u8, both: bool) -> Subnets {
    let number = network + 1;
    let v4 = format!("10.{number}.{slot}.0/24");
    let v6 = format!("2001:db8:{number}:{slot}::/64");
    subnets(&if both { format!("{v4}, {v6}") } else { v4 })
}

fn address(node: usize, address: u8, vni: u32) -> Endpoint {
    let own = u8::try_from(node).unwrap() + 1;
    with_vtep(if address == 0 { own } else { address }, vni)
}

/// The command of a step; `None` when it moved the clock or a stream.
fn command(rig: &mut Rig, step: &Step) -> Option<Command> {
    let of = |(network, node): (usize, usize)| name(NETWORKS[network], NODES[node]);
    let vni = |rig: &Rig, network: usize| {
        rig.ledger.network(&NETWORKS[network].parse().unwrap()).map_or(1, |network| network.vni.get())
    };
    let wide = |rig: &Rig, network: usize| {
        rig.ledger.network(&NETWORKS[network].parse().unwrap()).is_some_and(|network| network.pools.len() > 1)
    };
    Some(match *step {
        Step::Acquire { lease, instance, claim, address: at } => {
            let endpoint = address(lease.1, at, vni(rig, lease.0));
            let claim = claim.map(|slot| slots(lease.0, slot, wide(rig, lease.0)));
            Command::AcquireLease {
                name: of(lease),
                instance: InstanceId(instance),
                claim,
                endpoint,
                underlay: Vec::new(),
                identity_epoch: rig.ledger.identity_epoch(&NODES[lease.1].parse().unwrap()),
            }
        }
        Step::Renew { lease } => Command::RenewLease { name: of(lease), epoch: None },
        Step::Update { lease, address: at, stale } => {
            let epoch = rig.ledger.lease(&of(lease)).map_or(Epoch(1), |lease| lease.epoch);
            let epoch = Epoch(epoch.0 - u64::from(stale));
            Command::UpdateEndpoint {
                name: of(lease),
                epoch,
                endpoint: address(lease.1, at, vni(rig, lease.0)),
            }
        }
        Step::Release { lease } => Command::ReleaseLease { name: of(lease), epoch: None },
        Step::Expire => {
            let due = rig.ledger.lease_expiries().next().filter(|(_, expires, _)| *expires <= rig.now);
            let (name, _, revision) = due?;
            Command::ExpireLease { name: name.clone(), revision }
        }
        Step::Reserve { lease, slot } => {
            let subnets = slots(lease.0, slot, slot == 3 && wide(rig, lease.0));
            Command::CreateReservation { name: of(lease), subnets, request_id: None }
        }
        Step::Unreserve { lease } => Command::DeleteReservation { name: of(lease) },
        Step::Create { network, wide } => {
            let spec = spec(NETWORKS[network], &pools(network, wide));
            Command::CreateNetwork { spec, request_id: Some(format!("{network} {wide}")) }
        }
        Step::Widen { network, wide } => set_pools(NETWORKS[network], &pools(network, wide)),
        Step::Delete { network, force } => {
            Command::DeleteNetwork { id: NETWORKS[network].parse().unwrap(), force }
        }
        Step::ShutOut { node, release } => {
            let node = NODES[node].parse().unwrap();
            let epoch = rig.ledger.identity_epoch(&node) + 1;
            let farewell = if release { Farewell::Release } else { Farewell::Hold };
            Command::ShutOut { node, epoch, farewell }
        }
        Step::Begin { adopt } => {
            let id = u128::from(rig.ledger.revision().0) + 100;
            let adopt_until = adopt.then(|| rig.now + COOLDOWN);
            Command::BeginIncarnation { id, predecessor: None, adopt_until }
        }
        Step::EndAdoption => Command::EndAdoption,
        Step::Tidy => Command::Tidy,
        Step::Pass { seconds } => {
            rig.pass(seconds);
            return None;
        }
        Step::Stream { lease, instance } => {
            match instance {
                Some(instance) => drop(rig.streams.0.insert(of(lease), InstanceId(instance))),
                None => drop(rig.streams.0.remove(&of(lease))),
            }
            return None;
        }
    })
}

/// What the test remembers by itself of who had which slot, and of epochs.
#[derive(Default)]
struct Memory {
    /// By whom a slot was left, and when.
    left: BTreeMap<IpNet, (LeaseName, SystemTime)>,
    epochs: BTreeMap<LeaseName, (Epoch, InstanceId)>,
}

fn holders(ledger: &Ledger) -> BTreeMap<IpNet, LeaseName> {
    let leases = ledger.leases(None, None);
    leases.flat_map(|lease| lease.subnets.iter().map(move |slot| (slot, lease.name.clone()))).collect()
}

impl Memory {
    /// Compares the ledger before and after one committed batch.
    fn see(&mut self, before: &Ledger, rig: &Rig) {
        let (had, have) = (holders(before), holders(&rig.ledger));
        let adopting = before.is_adopting();
        for (slot, holder) in have.iter().filter(|(slot, holder)| had.get(*slot) != Some(*holder)) {
            if let Some(robbed) = had.get(slot) {
                let robbed = before.lease(robbed).unwrap();
                let unconfirmed = robbed.incarnation != before.cluster().unwrap().incarnation;
                let away = !rig.streams.0.contains_key(&robbed.name);
                let stolen = matches!(robbed.state, LeaseState::Held { .. }) && away;
                assert!(stolen || (adopting && unconfirmed), "{holder} has {slot} of {robbed:?}");
                if !adopting {
                    let family = Family::of_net(*slot);
                    let free =
                        before.networks[&holder.network].slots.choose(&holder.node, family, rig.now.into());
                    assert_eq!(free, None, "{holder} has stolen {slot}");
                }
            }
            if let Some((last, left)) = self.left.remove(slot) {
                let cooled = left + COOLDOWN <= rig.now;
                assert!(
                    last == *holder || cooled || adopting,
                    "{holder} has {slot}, left by {last} at {left:?}"
                );
            }
        }
        for (slot, holder) in had.iter().filter(|(slot, _)| !have.contains_key(*slot)) {
            self.left.insert(*slot, (holder.clone(), rig.now));
        }
        // The slots of a network that is deleted do not outlive it.
        self.left.retain(|_, (of, _)| rig.ledger.network(&of.network).is_some());
        for lease in rig.ledger.leases(None, None) {
            let now = (lease.epoch, lease.instance);
            if let Some(then) = self.epochs.insert(lease.name.clone(), now) {
                assert!(now.0 >= then.0, "the epoch of {} went back from {then:?} to {now:?}", lease.name);
                assert!(now.0 > then.0 || now.1 == then.1, "{} has one epoch for two instances", lease.name);
            }
            let expires = rig.ledger.expiries.iter().any(|(_, name)| *name == lease.name);
            let must_expire = lease.state == LeaseState::Active && !lease.reserved;
            assert!(!must_expire || expires, "{} never expires", lease.name);
        }
    }
}

fn predicted(ledger: &Ledger, decision: &Decision) -> Batch {
    let changes = decision.changes.clone().into();
    Batch { revision: ledger.revision().next(), changes, hash: RollingHash::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_commands_breaks_an_invariant(steps in vec(step(), 1..80)) {
        let mut rig = rig();
        let mut memory = Memory::default();
        for step in steps {
            let Some(command) = command(&mut rig, &step) else { continue };
            let before = rig.ledger.clone();
            let decided = rig.run(&command);
            if let (Err(refusal), false) = (&decided, matches!(command, Command::DeleteNetwork { .. })) {
                prop_assert_eq!(&rig.ledger, &before, "refused: {}", refusal);
            }
            memory.see(&before, &rig);
            rig.check();
            if let (Ok(_), Command::AcquireLease { name, .. }) = (&decided, &command) {
                let lease = rig.ledger.lease(name).unwrap();
                prop_assert!(lease.expires.is_none_or(|expires| expires + Duration::from_millis(1) > rig.now + TTL));
                let again = rig.decide(&command).unwrap();
                prop_assert!(again.changes.is_empty(), "repeated: {:?}", again);
            }
        }
    }

    #[test]
    fn what_is_decided_ahead_on_a_copy_is_committed_as_it_was_decided(
        bursts in vec(vec(step(), 1..12), 1..8),
    ) {
        let mut rig = rig();
        let mut memory = Memory::default();
        for burst in bursts {
            // Commands are made of what is committed, as clients do; the clock and the streams stand still.
            let commands: Vec<_> = burst.iter().filter_map(|step| command(&mut rig, step)).collect();
            let mut head = rig.ledger.clone();
            let mut accepted = Vec::new();
            for command in &commands {
                loop {
                    let Ok(decision) = rig.decide_on(&head, command) else { break };
                    let more = decision.more;
                    if !decision.changes.is_empty() {
                        head.apply(&predicted(&head, &decision)).unwrap();
                        accepted.push(decision);
                    }
                    if !more { break }
                }
            }
            for decision in accepted {
                let before = rig.ledger.clone();
                rig.commit(decision.changes, decision.guards).unwrap();
                rig.catch_up();
                memory.see(&before, &rig);
            }
            prop_assert_eq!(&head, &rig.ledger);
            rig.check();
        }
    }

    #[test]
    fn of_two_replicas_that_do_not_see_each_other_one_wins(
        rounds in vec((vec(step(), 1..6), vec(step(), 1..6)), 1..8),
    ) {
        let mut rig = rig();
        for (mine, theirs) in rounds {
            let mut queues = Vec::new();
            for (replica, steps) in [mine, theirs].into_iter().enumerate() {
                let mut head = rig.ledger.clone();
                let mut queue = VecDeque::new();
                for step in steps {
                    // Replicas serve different nodes: addresses have no claims of their own.
                    let step = match step {
                        Step::Acquire { lease: (network, node), instance, claim, .. } => {
                            let node = node / 2 * 2 + replica;
                            Step::Acquire { lease: (network, node), instance, claim, address: 0 }
                        }
                        Step::Update { lease: (network, node), stale, .. } => {
                            Step::Update { lease: (network, node / 2 * 2 + replica), stale, address: 0 }
                        }
                        // A pool that disappears is decided by one process, see `update_network`.
                        Step::Widen { network, .. } => Step::Widen { network, wide: true },
                        other => other,
                    };
                    let Some(command) = command(&mut rig, &step) else { continue };
                    let Ok(decision) = rig.decide_on(&head, &command) else { continue };
                    if !decision.changes.is_empty() {
                        head.apply(&predicted(&head, &decision)).unwrap();
                        queue.push_back((head.revision(), decision));
                    }
                }
                queues.push(queue);
            }
            while queues.iter().any(|queue| !queue.is_empty()) {
                for queue in &mut queues {
                    let Some((expected, decision)) = queue.pop_front() else { continue };
                    let committed = rig.commit(decision.changes, decision.guards);
                    // Whoever lost, or was not alone, drops what it decided ahead and decides again.
                    if committed != Ok(expected) {
                        queue.clear();
                    }
                    rig.catch_up();
                    rig.ledger.check().unwrap();
                    rig.check_uniqueness();
                    prop_assert_eq!(&Ledger::load(&rig.loaded()).unwrap(), &rig.ledger);
                }
            }
        }
    }
}
