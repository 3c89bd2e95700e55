//! What only one can have belongs to one: in every list, and at every moment by what was answered.
//!
//! ```text
//!  a   ──take──▶ answered ═════ has it for sure ═════ give is sent ──▶
//!  b                              ──take──▶ answered ═══               two at once
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Call, Calls, Held, History, Rule, Slot, Thing, Violation};

pub(super) fn check(history: &History, calls: &Calls<'_>) -> Vec<Violation> {
    let (last, others): (Vec<_>, Vec<_>) = history.looks.iter().partition(|look| look.last);
    // A list has things of one kind. The last ones are of one moment, so they are one.
    let mut lists: BTreeMap<_, Vec<(&Thing, &Held)>> = BTreeMap::new();
    for look in last {
        lists.entry((look.replica, None)).or_default().extend(&look.things);
    }
    for (place, look) in others.into_iter().enumerate() {
        lists.entry((look.replica, Some(place))).or_default().extend(&look.things);
    }
    let mut violations: Vec<_> = lists.into_values().flat_map(in_list).collect();
    violations.extend(at_once(calls));
    violations
}

/// Subnets that are in one another, and VNIs that are the same.
fn in_list(things: Vec<(&Thing, &Held)>) -> Vec<Violation> {
    let slots =
        things.into_iter().flat_map(|(thing, held)| held.slots.iter().map(move |slot| (*slot, thing)));
    let mut slots: Vec<_> = slots.collect();
    // What contains another subnet comes before it.
    slots.sort_unstable();
    let mut violations = Vec::new();
    let mut widest: Option<(Slot, &Thing)> = None;
    for (slot, thing) in slots {
        match widest {
            Some((other, holder)) if other.contains(slot) => {
                if holder.owner() != thing.owner() {
                    let told = format!("in one list {holder} has {other}, and {thing} has {slot}");
                    violations.push(Violation::new(Rule::OneHolder, told));
                }
            }
            _ => widest = Some((slot, thing)),
        }
    }
    violations
}

impl Slot {
    fn contains(self, other: Self) -> bool {
        match (self, other) {
            (Self::Subnet(subnet), Self::Subnet(other)) => subnet.contains(&other),
            _ => self == other,
        }
    }
}

/// From when to when somebody has something for sure.
struct Span<'a> {
    thing: &'a Thing,
    from: Duration,
    /// `None`: for ever.
    to: Option<Duration>,
}

fn at_once(calls: &Calls<'_>) -> Vec<Violation> {
    let mut slots: BTreeMap<Slot, Vec<Span<'_>>> = BTreeMap::new();
    for (thing, calls) in calls {
        for call in calls {
            let Some(held) = call.held() else { continue };
            let to = may_end_at(calls, call, held);
            if to.is_none_or(|to| to > call.end) {
                for slot in &held.slots {
                    slots.entry(*slot).or_default().push(Span { thing, from: call.end, to });
                }
            }
        }
    }
    let mut violations = Vec::new();
    for (slot, mut spans) in slots {
        spans.sort_by_key(|span| span.from);
        let mut open: Vec<&Span<'_>> = Vec::new();
        for span in &spans {
            open.retain(|other| other.to.is_none_or(|to| to > span.from));
            if let Some(other) = open.iter().find(|other| other.thing.owner() != span.thing.owner()) {
                let (one, two) = (other.thing, span.thing);
                let told = format!("at {:.3?} {slot} was {one}'s and {two}'s, as was answered", span.from);
                violations.push(Violation::new(Rule::OneHolder, told));
            }
            open.push(span);
        }
    }
    violations
}

/// The first moment at which somebody else's word, or a later one, may have ended what a call was answered.
fn may_end_at(calls: &[&Call], call: &Call, held: &Held) -> Option<Duration> {
    let moved =
        |other: &Call| other.begin >= call.begin && other.held().is_some_and(|now| now.slots != held.slots);
    let ending =
        calls.iter().filter(|other| !other.was_over(call.begin) && (other.may_end(held) || moved(other)));
    ending.map(|other| other.begin).min()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{held, lease, vni};
    use super::super::{Outcome, Scope, Wish};
    use super::*;

    #[test]
    fn a_subnet_that_was_given_back_may_go_to_the_next() {
        let history = History::default()
            .took(lease("a"), (0, 1), held(1, 5, 1))
            .gave(lease("a"), (2, 4), 5)
            .took(lease("b"), (3, 5), held(1, 9, 2));
        assert_eq!(history.broken(), []);
    }

    #[test]
    fn a_subnet_of_two_at_once_is_found_in_their_answers() {
        let history = History::default()
            .took(lease("a"), (0, 1), held(1, 5, 1))
            .took(lease("b"), (2, 3), held(1, 9, 2))
            .gave(lease("a"), (4, 5), 5);
        assert_eq!(history.broken(), [Rule::OneHolder]);
    }

    #[test]
    fn what_became_of_a_lease_is_given_back_with_it() {
        let history = History::default()
            .took(lease("a"), (0, 1), held(1, 5, 1))
            .took(lease("a"), (2, 3), held(1, 6, 2))
            .gave(lease("a"), (4, 5), 6)
            .took(lease("b"), (6, 7), held(1, 9, 2));
        assert_eq!(history.broken(), []);
    }

    #[test]
    fn a_release_that_nobody_has_answered_may_have_been_done_at_any_time() {
        let history = History::default()
            .took(lease("a"), (0, 1), held(1, 5, 1))
            .call(lease("a"), (2, 3), Wish::Give { epoch: 5 }, Outcome::Unknown)
            .took(lease("b"), (20, 21), held(1, 9, 2));
        assert_eq!(history.broken(), []);
        let refused = History::default()
            .took(lease("a"), (0, 1), held(1, 5, 1))
            .call(lease("a"), (2, 3), Wish::Give { epoch: 5 }, Outcome::Refused)
            .took(lease("b"), (20, 21), held(1, 9, 2));
        assert_eq!(refused.broken(), [Rule::OneHolder]);
    }

    #[test]
    fn a_reservation_and_a_lease_of_its_node_may_be_of_one_subnet_and_of_nobody_else() {
        let reserved = held(1, 0, 0);
        let history = History::default().took(Thing::reservation("blue", "a"), (0, 1), reserved).took(
            lease("a"),
            (2, 3),
            held(1, 5, 1),
        );
        assert_eq!(history.broken(), []);
        let history = history.gave(lease("a"), (4, 5), 5).took(lease("b"), (6, 7), held(1, 9, 2));
        assert_eq!(history.broken(), [Rule::OneHolder]);
    }

    #[test]
    fn a_vni_of_two_is_found() {
        let network = |name: &str| Thing::Network(name.to_owned());
        let history = History::default()
            .took(network("a"), (0, 1), vni(7))
            .gave(network("a"), (2, 3), 0)
            .took(network("b"), (4, 5), vni(7));
        assert_eq!(history.broken(), []);
        let history = history.took(network("c"), (6, 7), vni(7));
        assert_eq!(history.broken(), [Rule::OneHolder]);
    }

    #[test]
    fn one_list_shows_who_has_what_is_somebody_elses() {
        let wide = Held { slots: vec![Slot::Subnet("10.1.0.0/20".parse().unwrap())], epoch: 6, instance: 2 };
        let history = History::default()
            .took(lease("a"), (0, 1), held(1, 5, 1))
            .took(lease("b"), (0, 1), wide.clone())
            .look(0, (2, 3), 9, [(lease("a"), held(1, 5, 1)), (lease("b"), wide)]);
        assert_eq!(history.broken(), [Rule::OneHolder]);
    }

    #[test]
    fn the_last_lists_of_a_replica_are_one() {
        let reserved = held(1, 0, 0);
        let (a, b) = (lease("a"), Thing::reservation("blue", "b"));
        // Nobody was answered.
        let asked = History::default()
            .call(a.clone(), (0, 1), Wish::Take { instance: 1 }, Outcome::Unknown)
            .call(b.clone(), (0, 1), Wish::Take { instance: 0 }, Outcome::Unknown);
        let scope = Scope::Reservations("blue".to_owned());
        let history = asked
            .look(0, (2, 3), 9, [(a, held(1, 5, 1))])
            .last()
            .look_at(scope, 0, (2, 3), 9, [(b, reserved)])
            .last();
        assert_eq!(history.broken(), [Rule::OneHolder]);
    }
}
