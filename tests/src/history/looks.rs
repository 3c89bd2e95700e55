//! Lists fit together, whichever replica tells them and however far it lags behind.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Call, Calls, Held, History, Look, Outcome, Rule, Scope, Thing, Violation, Wish};

pub(super) fn check(history: &History, calls: &Calls<'_>) -> Vec<Violation> {
    let mut violations = never_older(&history.looks);
    let mut scopes: BTreeMap<&Scope, Vec<&Look>> = BTreeMap::new();
    for look in &history.looks {
        scopes.entry(&look.scope).or_default().push(look);
        violations.extend(asked_for(history, calls, look));
    }
    for looks in scopes.values_mut() {
        looks.sort_by_key(|look| look.revision);
        for pair in looks.windows(2) {
            violations.extend(follows(history, calls, pair[0], pair[1]));
        }
    }
    violations
}

fn never_older(looks: &[Look]) -> Vec<Violation> {
    let mut replicas: BTreeMap<usize, Vec<&Look>> = BTreeMap::new();
    for look in looks {
        replicas.entry(look.replica).or_default().push(look);
    }
    let mut violations = Vec::new();
    for (replica, mut looks) in replicas {
        looks.sort_by_key(|look| look.begin);
        for pair in looks.windows(2).filter(|pair| pair[0].end <= pair[1].begin) {
            let (before, after) = (pair[0].revision, pair[1].revision);
            if after < before {
                let told = format!(
                    "replica {replica} told revision {after} at {:.3?}, after revision {before}",
                    pair[1].end
                );
                violations.push(Violation::new(Rule::NeverOlder, told));
            }
        }
    }
    violations
}

/// Two lists of one kind, the second not of an earlier revision.
fn follows(history: &History, calls: &Calls<'_>, before: &Look, after: &Look) -> Vec<Violation> {
    if before.revision == after.revision {
        return same(before, after).into_iter().collect();
    }
    let mut violations = Vec::new();
    for (thing, was) in &before.things {
        let is = after.things.get(thing);
        let told = || {
            let is = is.map_or_else(|| "gone".to_owned(), ToString::to_string);
            format!(
                "{thing} was {was} in revision {} and is {is} in revision {}",
                before.revision, after.revision
            )
        };
        if is.is_some_and(|is| is.epoch < was.epoch) {
            violations.push(Violation::new(Rule::EpochsGoUp, told()));
        } else if is.is_none_or(|is| is.slots != was.slots)
            && !may_be_over(history, calls, thing, was, after.end)
        {
            let rule = if is.is_some() { Rule::StaysAsItIs } else { Rule::EndsByCall };
            violations.push(Violation::new(rule, told()));
        }
    }
    violations
}

fn same(one: &Look, other: &Look) -> Option<Violation> {
    let differs = |thing: &&Thing| one.things.get(*thing) != other.things.get(*thing);
    let thing = one.things.keys().chain(other.things.keys()).find(differs)?;
    let told = format!(
        "revision {} has two contents: {thing} is {:?} of replica {} and {:?} of replica {}",
        one.revision,
        one.things.get(thing),
        one.replica,
        other.things.get(thing),
        other.replica
    );
    Some(Violation::new(Rule::OneContent, told))
}

/// Whether somebody has asked for the end of what was held.
fn may_be_over(history: &History, calls: &Calls<'_>, thing: &Thing, was: &Held, by: Duration) -> bool {
    let ends = |call: &&Call| call.may_end(was) && call.begin <= by;
    !history.bystanders.contains(thing) && calls.get(&thing).is_some_and(|calls| calls.iter().any(ends))
}

fn asked_for(history: &History, calls: &Calls<'_>, look: &Look) -> Vec<Violation> {
    let explains = |call: &Call, is: &Held| {
        let asks = call.outcome == Outcome::Unknown && call.wish == Wish::Take { instance: is.instance };
        call.begin <= look.end && (call.held() == Some(is) || asks)
    };
    let unexplained = look.things.iter().filter(|(thing, is)| {
        let asked = calls.get(thing).is_some_and(|calls| calls.iter().any(|call| explains(call, is)));
        !asked && !history.bystanders.contains(*thing)
    });
    let told = unexplained.map(|(thing, is)| {
        let told = format!(
            "revision {} has {thing} with {is}, which no answer has and nobody asked for",
            look.revision
        );
        Violation::new(Rule::AskedFor, told)
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{held, lease};
    use super::*;

    fn one() -> History {
        History::default().took(lease("a"), (0, 1), held(1, 5, 1))
    }

    #[test]
    fn a_list_may_lag_behind() {
        let history = one().look(0, (2, 3), 4, []).look(1, (2, 3), 6, [(lease("a"), held(1, 5, 1))]).gave(
            lease("a"),
            (4, 5),
            5,
        );
        let history = history.look(0, (6, 7), 6, [(lease("a"), held(1, 5, 1))]).look(1, (6, 7), 8, []);
        assert_eq!(history.broken(), []);
    }

    #[test]
    fn a_revision_has_one_content() {
        let history = one().look(0, (2, 3), 6, []).look(1, (2, 3), 6, [(lease("a"), held(1, 5, 1))]);
        assert_eq!(history.broken(), [Rule::OneContent]);
    }

    #[test]
    fn a_replica_never_tells_what_is_older() {
        let there = || [(lease("a"), held(1, 5, 1))];
        let history = one().look(0, (2, 3), 7, there()).look(0, (4, 5), 6, there());
        assert_eq!(history.broken(), [Rule::NeverOlder]);
        let history = one().look(0, (2, 3), 7, there()).look(1, (4, 5), 6, there());
        assert_eq!(history.broken(), []);
    }

    #[test]
    fn what_a_list_has_shown_does_not_go_by_itself() {
        let there = [(lease("a"), held(1, 5, 1))];
        let history = one().look(0, (2, 3), 6, there).look(1, (4, 5), 9, []);
        assert_eq!(history.broken(), [Rule::EndsByCall]);
        let asked = history.call(lease("a"), (3, 4), Wish::Give { epoch: 5 }, Outcome::Unknown);
        assert_eq!(asked.broken(), []);
    }

    #[test]
    fn what_a_list_has_shown_does_not_become_another_thing() {
        let epoch = one()
            .took(lease("a"), (2, 3), held(1, 6, 2))
            .look(0, (4, 5), 6, [(lease("a"), held(1, 6, 2))])
            .look(1, (4, 5), 7, [(lease("a"), held(1, 5, 1))]);
        assert_eq!(epoch.broken(), [Rule::EpochsGoUp]);
        let mut slots = History::default().look(0, (4, 5), 6, [(lease("x"), held(1, 6, 2))]).look(
            1,
            (4, 5),
            7,
            [(lease("x"), held(2, 6, 2))],
        );
        slots.bystanders.insert(lease("x"));
        assert_eq!(slots.broken(), [Rule::StaysAsItIs]);
    }

    #[test]
    fn what_nobody_has_asked_for_is_not_there() {
        let history = one().look(0, (2, 3), 6, [(lease("b"), held(2, 6, 1))]);
        assert_eq!(history.broken(), [Rule::AskedFor]);
        let other = one().look(0, (2, 3), 6, [(lease("a"), held(2, 5, 1))]);
        assert_eq!(other.broken(), [Rule::AskedFor]);
        let open = one().call(lease("b"), (0, 1), Wish::Take { instance: 1 }, Outcome::Unknown).look(
            0,
            (2, 3),
            6,
            [(lease("b"), held(2, 6, 1))],
        );
        assert_eq!(open.broken(), []);
    }
}
