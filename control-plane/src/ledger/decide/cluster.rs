//! The store's lives, and tidying up.

use std::time::SystemTime;

use super::draft::{Draft, STEP, revision_of};
use crate::ledger::Ledger;
use crate::ledger::command::{Context, Decision, Want};
use crate::ledger::key::RecordKey;
use crate::ledger::record::{ClusterRecord, Incarnation, Stamp, Stored};

/// Most earlier lives that are kept; a record stays well below the store's limit.
const MOST_PREDECESSORS: usize = 256;

impl Ledger {
    /// Begins another life of the store. Beginning the current one again changes nothing.
    pub(super) fn begin_incarnation(
        &self,
        id: u128,
        predecessor: Option<u128>,
        adopt_until: Option<SystemTime>,
    ) -> Decision {
        let current = self.cluster.as_ref().map(|cluster| &cluster.record);
        // Of several control planes that find that a store is new, or that it was lost, one is first.
        let is_begun = current.is_some_and(|current| match predecessor {
            _ if current.incarnation.0 == id => true,
            None => adopt_until.is_none(),
            Some(life) => current.adopt_until.is_some() && current.predecessors.contains(&Incarnation(life)),
        });
        if is_begun {
            return Draft::default().finish(Want::Nothing);
        }
        let mut predecessors = current.map(|current| current.predecessors.clone()).unwrap_or_default();
        let ended = current.map(|current| current.incarnation);
        for life in predecessor.map(Incarnation).into_iter().chain(ended) {
            if life.0 != id && !predecessors.contains(&life) {
                predecessors.push(life);
            }
        }
        let forgotten = predecessors.len().saturating_sub(MOST_PREDECESSORS);
        predecessors.drain(..forgotten);
        let record = ClusterRecord {
            incarnation: Incarnation(id),
            predecessors,
            adopt_until: adopt_until.map(Into::into),
        };
        let mut draft = Draft::default();
        draft.put(&RecordKey::Cluster, &record, revision_of(self.cluster.as_ref()));
        draft.finish(Want::Nothing)
    }

    /// Ends the collecting of leases when it is time: those not confirmed are peers again. As long as there
    /// is no network nobody can bring a lease, and it goes on.
    pub(super) fn end_adoption(&self, context: &Context<'_>) -> Decision {
        let mut draft = Draft::default();
        let now = Stamp::from(context.now);
        let is_due = |cluster: &&Stored<ClusterRecord>| {
            cluster.record.adopt_until.is_some_and(|until| until <= now) && !self.networks.is_empty()
        };
        if let Some(cluster) = self.cluster.as_ref().filter(is_due) {
            let record = ClusterRecord { adopt_until: None, ..cluster.record.clone() };
            draft.put(&RecordKey::Cluster, &record, Some(cluster.revision));
        }
        draft.finish(Want::Nothing)
    }

    /// A network or a pool that comes while leases are collected may be one that was lost: its nodes get the
    /// whole time for bringing theirs.
    pub(super) fn prolong_adoption(&self, draft: &mut Draft, context: &Context<'_>) {
        let Some(cluster) = &self.cluster else { return };
        let until = Stamp::from(context.now).plus(context.defaults.adopt);
        if cluster.record.adopt_until.is_some_and(|before| before < until) {
            let record = ClusterRecord { adopt_until: Some(until), ..cluster.record.clone() };
            draft.put(&RecordKey::Cluster, &record, Some(cluster.revision));
        }
    }

    /// Forgets what has cooled down and old requests, and goes on with deletions that a stop interrupted.
    pub(super) fn tidy(&self, context: &Context<'_>) -> Decision {
        if let Some(entry) = self.networks.values().find(|entry| entry.deleting.is_some()) {
            let step = self.delete_step(entry, context);
            return Decision { more: true, want: Want::Nothing, ..step };
        }
        let now = Stamp::from(context.now);
        let mut draft = Draft::default();
        let slots = self.networks.iter().flat_map(|(id, entry)| {
            let cooled = entry.slots.cooled(now);
            cooled.filter_map(move |slot| {
                Some((RecordKey::Slot(id.clone(), slot), entry.slots.claim(slot)?.revision))
            })
        });
        let vnis = self
            .vnis
            .cooled(now)
            .filter_map(|vni| Some((RecordKey::Vni(vni), self.vnis.claim(vni)?.revision)));
        for (key, revision) in slots.chain(vnis).take(STEP) {
            draft.delete(&key, revision);
        }
        let old = self.request_ends.iter().take_while(|(until, _)| *until <= now).map(|(_, key)| key);
        for key in old.take(STEP - draft.len()) {
            if let (Some(name), Some(request)) = (RecordKey::parse(key), self.requests.get(key)) {
                draft.delete(&name, request.revision);
            }
        }
        self.members.forget(&mut draft, now, STEP);
        if draft.len() < STEP { draft.finish(Want::Nothing) } else { draft.step(Want::Nothing) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::ledger::testing::{
        Rig, acquire, acquire_at, claim, name, network, release, reserve, set_pools, with_vtep,
    };
    use crate::ledger::{Command, Knocked, LeaseState, NetworkChange, Refusal};
    use loden_proto::names::NodeId;

    fn begin(rig: &Rig, id: u128) -> Command {
        let adopt_until = Some(rig.now + Duration::from_secs(600));
        Command::BeginIncarnation { id, predecessor: None, adopt_until }
    }

    fn peers(rig: &Rig) -> Vec<String> {
        let peers = rig.ledger.peers(&"blue".parse().unwrap());
        peers.map(|peer| format!("{} {}", peer.node, peer.subnets)).collect()
    }

    #[test]
    fn lives_are_remembered() {
        let mut rig = Rig::empty();
        assert_eq!(rig.ledger.cluster(), None);
        rig.must(Command::BeginIncarnation { id: 5, predecessor: Some(4), adopt_until: None });
        rig.must(Command::BeginIncarnation { id: 6, predecessor: Some(3), adopt_until: None });
        assert!(
            rig.must(Command::BeginIncarnation { id: 6, predecessor: None, adopt_until: None })
                .changes
                .is_empty()
        );
        let cluster = rig.ledger.cluster().unwrap();
        assert_eq!((cluster.incarnation, cluster.predecessors), (6, vec![4, 3, 5]));
        for id in 100..400 {
            rig.must(begin(&rig, id));
        }
        let predecessors = rig.ledger.cluster().unwrap().predecessors;
        assert_eq!((predecessors.len(), predecessors.last()), (super::MOST_PREDECESSORS, Some(&398)));
    }

    #[test]
    fn of_several_that_find_a_store_new_or_lost_one_begins() {
        let mut rig = Rig::empty();
        let first = |id| Command::BeginIncarnation { id, predecessor: None, adopt_until: None };
        rig.must(first(1));
        assert!(rig.must(first(2)).changes.is_empty());
        let adopt_until = Some(rig.now + Duration::from_secs(600));
        let lost = |id| Command::BeginIncarnation { id, predecessor: Some(1), adopt_until };
        rig.must(lost(3));
        assert!(rig.must(lost(4)).changes.is_empty());
        assert_eq!(rig.ledger.cluster().unwrap().incarnation, 3);
        // Another life than the one that is being collected, or the same one lost again later, is no repetition.
        assert!(
            !rig.must(Command::BeginIncarnation { id: 5, predecessor: Some(9), adopt_until })
                .changes
                .is_empty()
        );
    }

    fn knocked() -> Knocked {
        let last = "192.0.2.7:4711".parse().unwrap();
        Knocked { last, ago: Duration::ZERO, hosts: 1, remaining: Duration::from_secs(300) }
    }

    #[test]
    fn while_there_are_signs_of_a_former_life_new_leases_are_held() {
        let mut rig = Rig::new();
        rig.must(network("blue", &["10.1.0.0/22"]));
        rig.must(reserve("blue", "z", "10.1.2.0/24"));
        rig.knocked = Some(knocked());
        for held in [acquire("blue", "a", 1), claim("blue", "a", 1, "10.1.1.0/24")] {
            let refusal = rig.refused(held);
            assert_eq!(refusal, Refusal::Knocked(knocked()));
            let said = refusal.to_string();
            assert!(
                said.contains("192.0.2.7:4711") && said.contains("loden-control-plane recover"),
                "{said}"
            );
        }
        rig.must(acquire("blue", "z", 1));
        assert_eq!(rig.subnets("blue", "z"), "10.1.2.0/24", "an operator has said so");
        rig.refused(acquire("blue", "a", 1));
        rig.knocked = None;
        rig.must(acquire("blue", "a", 1));
        rig.knocked = Some(knocked());
        rig.refused(acquire("blue", "b", 1));
        rig.must(acquire("blue", "a", 1));
        rig.check();
    }

    /// The copy is from before the reservation was deleted and its slot given to another node.
    #[test]
    fn what_a_node_holds_wins_over_a_reservation_of_before() {
        for leased in [false, true] {
            let mut rig = Rig::new();
            rig.must(network("blue", &["10.1.0.0/22"]));
            rig.must(reserve("blue", "y", "10.1.2.0/24"));
            if leased {
                rig.must(acquire("blue", "y", 1));
            }
            rig.must(begin(&rig, 2));
            rig.refused(acquire("blue", "y", 1));
            rig.must(claim("blue", "x", 2, "10.1.2.0/24"));
            assert_eq!(rig.subnets("blue", "x"), "10.1.2.0/24");
            assert_eq!(rig.ledger.reservations(None, None).count(), 0, "leased {leased}");
            rig.check();
            rig.pass(601);
            rig.must(Command::EndAdoption);
            rig.must(acquire("blue", "y", 1));
            assert_ne!(rig.subnets("blue", "y"), "10.1.2.0/24");
            rig.check();
        }
    }

    /// Its node lives on another slot.
    #[test]
    fn a_lease_whose_reservation_gives_way_lives_on() {
        let mut rig = Rig::new();
        rig.must(network("blue", &["10.1.0.0/22"]));
        rig.must(acquire("blue", "y", 1));
        let own = rig.subnets("blue", "y");
        let other = ["10.1.1.0/24", "10.1.2.0/24"].into_iter().find(|slot| *slot != own).unwrap();
        rig.must(reserve("blue", "y", other));
        rig.must(begin(&rig, 2));
        rig.must(claim("blue", "y", 1, &own));
        rig.must(claim("blue", "x", 2, other));
        assert_eq!((rig.subnets("blue", "y"), rig.subnets("blue", "x")), (own, other.to_owned()));
        rig.check();
    }

    #[test]
    fn a_lost_store_gives_every_claimant_its_own_and_no_one_anothers() {
        let mut rig = Rig::new();
        rig.must(network("blue", &["10.1.0.0/22"]));
        rig.must(begin(&rig, 2));
        rig.refused(acquire("blue", "new", 1));
        rig.must(claim("blue", "b", 1, "10.1.2.0/24"));
        rig.must(claim("blue", "a", 1, "10.1.1.0/24"));
        assert!(rig.must(acquire("blue", "a", 1)).changes.is_empty(), "a repeat needs no claim");
        assert_eq!(peers(&rig), ["a 10.1.1.0/24", "b 10.1.2.0/24"]);
        assert!(rig.must(Command::EndAdoption).changes.is_empty(), "not before its time");
        rig.pass(600);
        rig.must(Command::EndAdoption);
        assert!(rig.must(Command::EndAdoption).changes.is_empty());
        rig.must(acquire("blue", "new", 1));
        assert_eq!(rig.subnets("blue", "new"), "10.1.3.0/24");
        rig.check();
    }

    #[test]
    fn in_a_rolled_back_store_a_claim_wins_over_a_lease_that_is_not_confirmed() {
        let mut rig = Rig::new();
        rig.must(network("blue", &["10.1.0.0/22", "2001:db8::/48"]));
        for (node, slot) in [("a", "10.1.1.0/24, 2001:db8:0:1::/64"), ("b", "10.1.2.0/24, 2001:db8:0:2::/64")]
        {
            rig.must(claim("blue", node, 1, slot));
        }
        rig.must(begin(&rig, 2));
        assert_eq!(peers(&rig), Vec::<String>::new(), "nobody is confirmed yet");
        rig.must(claim("blue", "c", 1, "10.1.1.0/24, 2001:db8:0:3::/64"));
        assert_eq!(rig.ledger.lease(&name("blue", "a")), None);
        rig.must(claim("blue", "a", 1, "10.1.3.0/24, 2001:db8:0:1::/64"));
        assert_eq!(peers(&rig).len(), 2);
        let due = rig.lease("blue", "b");
        rig.pass(48 * 3600);
        rig.refused(Command::ExpireLease { name: due.name, revision: due.revision });
        rig.must(Command::EndAdoption);
        assert_eq!(peers(&rig).len(), 3, "b is a peer again");
        rig.check();
    }

    #[test]
    fn a_claimed_subnet_that_the_old_store_says_cools_down_is_granted() {
        let mut rig = Rig::new();
        rig.must(network("blue", &["10.1.0.0/22"]));
        rig.must(claim("blue", "a", 1, "10.1.1.0/24"));
        rig.must(release("blue", "a"));
        rig.must(begin(&rig, 2));
        rig.must(claim("blue", "b", 1, "10.1.1.0/24"));
        assert_eq!(rig.subnets("blue", "b"), "10.1.1.0/24");
        rig.check();
    }

    #[test]
    fn an_address_that_only_the_old_store_knows_is_in_nobodys_way() {
        let mut rig = Rig::new();
        rig.must(network("blue", &["10.1.0.0/22"]));
        rig.must(acquire_at("blue", "a", 1, with_vtep(7, 1)));
        rig.must(begin(&rig, 2));
        let Command::AcquireLease { name, instance, claim, underlay, identity_epoch, .. } =
            claim("blue", "b", 1, "10.1.3.0/24")
        else {
            panic!()
        };
        let endpoint = with_vtep(7, 1);
        rig.must(Command::AcquireLease { name, instance, claim, endpoint, underlay, identity_epoch });
        assert!(matches!(rig.lease("blue", "a").state, LeaseState::Held { .. }));
        rig.pass(600);
        rig.must(Command::EndAdoption);
        assert_eq!(peers(&rig), ["b 10.1.3.0/24"]);
        rig.check();
    }

    #[test]
    fn a_network_that_is_created_again_late_gives_its_nodes_the_whole_time() {
        let mut rig = Rig::new();
        rig.must(begin(&rig, 2));
        rig.pass(3600);
        assert!(rig.must(Command::EndAdoption).changes.is_empty(), "nobody could bring a lease yet");
        rig.must(network("blue", &["10.1.0.0/22"]));
        rig.refused(acquire("blue", "new", 1));
        rig.pass(599);
        assert!(rig.must(Command::EndAdoption).changes.is_empty());
        rig.must(claim("blue", "a", 1, "10.1.1.0/24"));
        rig.must(network("red", &["10.2.0.0/22"]));
        rig.pass(599);
        rig.must(claim("red", "a", 1, "10.2.1.0/24"));
        rig.pass(1);
        rig.must(Command::EndAdoption);
        assert_eq!(rig.ledger.cluster().unwrap().adopt_until, None);
        rig.must(network("green", &["10.3.0.0/22"]));
        assert_eq!(rig.ledger.cluster().unwrap().adopt_until, None, "it does not begin again");
        rig.check();
    }

    #[test]
    fn a_pool_that_is_added_again_late_gives_its_nodes_the_whole_time() {
        let both = ["10.1.0.0/22", "2001:db8::/48"];
        let mut rig = Rig::new();
        rig.must(network("blue", &both[..1]));
        rig.must(begin(&rig, 2));
        rig.must(claim("blue", "b", 1, "10.1.2.0/24"));
        let held = "10.1.1.0/24, 2001:db8:0:1::/64";
        rig.refused(claim("blue", "a", 1, held));
        rig.pass(599);
        rig.must(set_pools("blue", &both));
        rig.pass(599);
        assert!(rig.must(Command::EndAdoption).changes.is_empty());
        rig.refused(acquire("blue", "new", 1));
        rig.must(claim("blue", "a", 1, held));
        assert_eq!(rig.subnets("blue", "a"), held);
        // What gives nobody anything to bring takes no time.
        rig.must(Command::UpdateNetwork {
            id: "blue".parse().unwrap(),
            change: NetworkChange { mtu: Some(1400_u32.try_into().ok()), ..NetworkChange::default() },
            seen: None,
        });
        rig.pass(1);
        rig.must(Command::EndAdoption);
        assert_eq!(rig.ledger.cluster().unwrap().adopt_until, None);
        rig.must(acquire("blue", "new", 1));
        rig.check();
    }

    #[test]
    fn tidying_frees_what_has_cooled_down_in_steps() {
        let mut rig = Rig::new();
        rig.must(network("blue", &["10.1.0.0/16"]));
        for number in 0..150 {
            let node = format!("n{number}");
            rig.must(acquire_at("blue", &node, 1, crate::ledger::testing::endpoint(number)));
            rig.must(release("blue", &node));
        }
        rig.must(Command::Tidy);
        let used = |rig: &Rig| rig.ledger.capacity(&"blue".parse().unwrap()).unwrap()[0].clone();
        assert_eq!((used(&rig).cooling, used(&rig).free), (150, 105));
        rig.pass(3600);
        assert!(rig.decide(&Command::Tidy).unwrap().more);
        rig.must(Command::Tidy);
        assert_eq!((used(&rig).cooling, used(&rig).free), (0, 255));
        assert!(rig.must(Command::Tidy).changes.is_empty());
        let forgotten: NodeId = "n0".parse().unwrap();
        assert_eq!(
            rig.ledger.networks[&"blue".parse().unwrap()]
                .slots
                .previous(&forgotten, loden_proto::model::Family::V4),
            None
        );
        rig.check();
    }
}
