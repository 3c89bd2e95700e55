//! Who goes wrong when: a list of faults with their ends, from a seed, before anything has happened.
//!
//! ```text
//!  deck of kinds, shuffled ─▶ kind ─▶ whom, how long ─▶ does it fit beside what is under way? ─▶ list
//!                                                        no: whom else, or the next kind
//! ```

mod fault;

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

pub use fault::{Actor, Fault};

/// How long a process that was killed stays away.
const AWAY: Range<u64> = 100..3000;
/// The shortest of what can be as long as the rules allow, in ms.
const SHORTEST: u64 = 500;
/// How long a member of etcd that is back needs to have again what the others have.
const CATCHING_UP: Duration = Duration::from_secs(3);
/// How far a clock jumps, in seconds.
const JUMP: i64 = 3600;
/// How often whom it hits is chosen again.
const TRIES: usize = 8;

/// A fault with its time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Planned {
    /// When it begins.
    pub begin: Duration,
    /// When everything is as it was.
    pub end: Duration,
    /// What happens.
    pub fault: Fault,
}

/// What may happen.
#[derive(Clone, Debug)]
pub struct Rules {
    /// How many control planes there are.
    pub replicas: usize,
    /// How many members etcd has.
    pub members: usize,
    /// How many agents there are.
    pub agents: usize,
    /// Everything begins and ends within this time.
    pub length: Duration,
    /// The time from one beginning to the next, in ms.
    pub pause: Range<u64>,
    /// How long somebody is stopped or cut off at most.
    pub longest: Duration,
    /// Whether so many members of etcd may be gone at once that it stands still.
    pub quorum_may_go: bool,
}

/// A list of faults, by their beginnings.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plan {
    /// What it was made from.
    pub seed: u64,
    /// The faults.
    pub faults: Vec<Planned>,
}

/// One moment of a plan.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Step {
    /// When.
    pub at: Duration,
    /// Which fault, by its place in the list.
    pub place: usize,
    /// Whether it begins or ends.
    pub begins: bool,
}

/// What a fault is of, before it is known whom it hits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    KillReplica,
    KillMember,
    KillAgent,
    KillBalancer,
    KillLeader,
    StopReplica,
    StopMember,
    StopAgent,
    Cut,
    JumpReplica,
    JumpAgent,
}

/// As often as it is in here.
const DECK: [Kind; 16] = [
    Kind::KillReplica,
    Kind::KillReplica,
    Kind::KillReplica,
    Kind::KillMember,
    Kind::KillAgent,
    Kind::KillBalancer,
    Kind::KillLeader,
    Kind::StopReplica,
    Kind::StopReplica,
    Kind::StopMember,
    Kind::StopAgent,
    Kind::Cut,
    Kind::Cut,
    Kind::Cut,
    Kind::JumpReplica,
    Kind::JumpAgent,
];

impl Plan {
    /// The same seed and rules make the same plan.
    #[must_use]
    pub fn new(seed: u64, rules: &Rules) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut plan = Self { seed, faults: Vec::new() };
        let (mut deck, mut now) = (Vec::new(), Duration::ZERO);
        loop {
            now += Duration::from_millis(random.random_range(rules.pause.clone()));
            if now + Duration::from_millis(SHORTEST) > rules.length {
                return plan;
            }
            // What does not fit now stays in the deck, and comes first when it does.
            if deck.len() < DECK.len() / 2 {
                let mut more = DECK;
                more.shuffle(&mut random);
                deck.extend(more);
            }
            let fitting = (0..deck.len())
                .find_map(|place| Some((place, plan.fitting(deck[place], now, rules, &mut random)?)));
            if let Some((place, planned)) = fitting {
                deck.remove(place);
                plan.faults.push(planned);
            }
        }
    }

    /// All beginnings and ends, in their order.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        let both = self.faults.iter().enumerate().flat_map(|(place, planned)| {
            let step = |at, begins| Step { at, place, begins };
            [step(planned.begin, true), step(planned.end, false)]
        });
        let mut steps: Vec<Step> = both.collect();
        // At one moment ends come first.
        steps.sort_by_key(|step| (step.at, step.begins, step.place));
        steps
    }

    fn fitting(&self, kind: Kind, begin: Duration, rules: &Rules, random: &mut StdRng) -> Option<Planned> {
        (0..TRIES).find_map(|_| {
            let fault = kind.choose(rules, random)?;
            let longest = u64::try_from(rules.longest.as_millis()).unwrap_or(u64::MAX).max(SHORTEST + 1);
            let lasts = match fault {
                Fault::Kill(_) | Fault::KillLeader => random.random_range(AWAY),
                Fault::Stop(_) | Fault::Cut(..) | Fault::Jump(..) => random.random_range(SHORTEST..longest),
            };
            let end = (begin + Duration::from_millis(lasts)).min(rules.length);
            let planned = Planned { begin, end, fault };
            self.takes(&planned, rules).then_some(planned)
        })
    }

    /// Whether a fault that begins last fits beside those before it.
    fn takes(&self, planned: &Planned, rules: &Rules) -> bool {
        let mut under_way = self.faults.iter().filter(|other| other.end > planned.begin);
        if !under_way.all(|other| planned.fault.is_beside(other.fault)) {
            return false;
        }
        if rules.quorum_may_go || !planned.fault.costs_a_member() {
            return true;
        }
        let costs = self.faults.iter().filter(|other| other.fault.costs_a_member());
        let gone = costs.filter(|other| other.end + CATCHING_UP > planned.begin).count();
        gone < rules.members.saturating_sub(1) / 2
    }
}

impl Kind {
    /// Whom it hits; `None` if there is nobody.
    fn choose(self, rules: &Rules, random: &mut StdRng) -> Option<Fault> {
        let mut one = |count: usize| (count > 0).then(|| random.random_range(0..count));
        Some(match self {
            Self::KillReplica => Fault::Kill(Actor::Replica(one(rules.replicas)?)),
            Self::KillMember => Fault::Kill(Actor::Member(one(rules.members)?)),
            Self::KillAgent => Fault::Kill(Actor::Agent(one(rules.agents)?)),
            Self::KillBalancer => Fault::Kill(Actor::Balancer),
            Self::KillLeader => Fault::KillLeader,
            Self::StopReplica => Fault::Stop(Actor::Replica(one(rules.replicas)?)),
            Self::StopMember => Fault::Stop(Actor::Member(one(rules.members)?)),
            Self::StopAgent => Fault::Stop(Actor::Agent(one(rules.agents)?)),
            Self::JumpReplica => Fault::Jump(Actor::Replica(one(rules.replicas)?), sign(one(2)?)),
            Self::JumpAgent => Fault::Jump(Actor::Agent(one(rules.agents)?), sign(one(2)?)),
            Self::Cut => {
                let links = links(rules);
                let (here, there) = *links.get(one(links.len())?)?;
                Fault::Cut(here, there)
            }
        })
    }
}

fn sign(side: usize) -> i64 {
    if side == 0 { JUMP } else { -JUMP }
}

/// Who talks to whom, but for the agents, between whom the packets of the pods are.
fn links(rules: &Rules) -> Vec<(Actor, Actor)> {
    let replicas = || (0..rules.replicas).map(Actor::Replica);
    let members = || (0..rules.members).map(Actor::Member);
    let mut links = BTreeSet::new();
    for replica in replicas() {
        links.insert((Actor::Balancer, replica));
        links.extend(members().map(|member| (replica, member)));
        links.extend(replicas().filter(|other| replica < *other).map(|other| (replica, other)));
    }
    for member in members() {
        links.extend(members().filter(|other| member < *other).map(|other| (member, other)));
    }
    links.extend((0..rules.agents).map(|agent| (Actor::Balancer, Actor::Agent(agent))));
    links.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEDS: u64 = 100;

    fn rules() -> Rules {
        Rules {
            replicas: 3,
            members: 3,
            agents: 6,
            length: Duration::from_secs(120),
            pause: 500..2500,
            longest: Duration::from_secs(20),
            quorum_may_go: false,
        }
    }

    fn plans() -> impl Iterator<Item = Plan> {
        (0..SEEDS).map(|seed| Plan::new(seed, &rules()))
    }

    #[test]
    fn a_seed_always_makes_the_same_plan() {
        assert_eq!(Plan::new(7, &rules()), Plan::new(7, &rules()));
        assert_ne!(Plan::new(7, &rules()).faults, Plan::new(8, &rules()).faults);
    }

    #[test]
    fn every_fault_ends_in_time_and_in_order() {
        for plan in plans() {
            assert!(plan.faults.len() > 30, "{} faults", plan.faults.len());
            for planned in &plan.faults {
                assert!(planned.begin < planned.end && planned.end <= rules().length, "{planned:?}");
            }
            let steps = plan.steps();
            assert!(steps.is_sorted_by_key(|step| step.at));
            for place in 0..plan.faults.len() {
                let of_one: Vec<_> = steps.iter().filter(|step| step.place == place).collect();
                assert!(
                    matches!(of_one[..], [Step { begins: true, .. }, Step { begins: false, .. }]),
                    "{of_one:?}"
                );
            }
        }
    }

    #[test]
    fn everything_happens() {
        let all: Vec<_> = Plan::new(1, &rules()).faults;
        let happens = |is: fn(Fault) -> bool| assert!(all.iter().any(|planned| is(planned.fault)), "{all:?}");
        happens(|fault| matches!(fault, Fault::Kill(Actor::Replica(_))));
        happens(|fault| matches!(fault, Fault::Kill(Actor::Member(_))));
        happens(|fault| matches!(fault, Fault::Kill(Actor::Agent(_))));
        happens(|fault| matches!(fault, Fault::Kill(Actor::Balancer)));
        happens(|fault| fault == Fault::KillLeader);
        happens(|fault| matches!(fault, Fault::Stop(Actor::Replica(_))));
        happens(|fault| matches!(fault, Fault::Stop(Actor::Member(_))));
        happens(|fault| matches!(fault, Fault::Stop(Actor::Agent(_))));
        happens(|fault| matches!(fault, Fault::Cut(..)));
        happens(|fault| matches!(fault, Fault::Jump(Actor::Replica(_), _)));
        happens(|fault| matches!(fault, Fault::Jump(Actor::Agent(_), _)));
    }

    #[test]
    fn nobody_has_two_faults_at_once_and_agents_are_never_cut_off_from_each_other() {
        for plan in plans() {
            for (place, planned) in plan.faults.iter().enumerate() {
                let mut earlier = plan.faults[..place].iter().filter(|other| other.end > planned.begin);
                assert!(earlier.all(|other| planned.fault.is_beside(other.fault)), "{planned:?}");
                assert!(
                    !matches!(planned.fault, Fault::Cut(Actor::Agent(_), Actor::Agent(_))),
                    "{planned:?}"
                );
            }
        }
    }

    /// How many members are gone at most at a time.
    fn most_gone(plan: &Plan) -> usize {
        let costs: Vec<_> = plan.faults.iter().filter(|planned| planned.fault.costs_a_member()).collect();
        let at = |moment| costs.iter().filter(|other| other.begin <= moment && moment < other.end).count();
        costs.iter().map(|planned| at(planned.begin)).max().unwrap_or_default()
    }

    #[test]
    fn a_minority_of_members_is_gone_at_once_unless_more_are_allowed() {
        assert_eq!(plans().map(|plan| most_gone(&plan)).max(), Some(1));
        let rules = Rules { quorum_may_go: true, ..rules() };
        assert!((0..SEEDS).any(|seed| most_gone(&Plan::new(seed, &rules)) > 1));
        let alone = Rules { members: 1, quorum_may_go: false, ..rules };
        assert_eq!(most_gone(&Plan::new(1, &alone)), 0);
    }
}
