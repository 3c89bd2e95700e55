//! The last lists have what was acknowledged: by then nobody lags behind, and only calls without an answer leave a choice.

use std::time::Duration;

use super::{Call, Calls, Held, History, Look, Outcome, Rule, Violation, Wish};

pub(super) fn check(history: &History, calls: &Calls<'_>) -> Vec<Violation> {
    history.looks.iter().filter(|look| look.last).flat_map(|look| lost(history, calls, look)).collect()
}

fn lost(history: &History, calls: &Calls<'_>, look: &Look) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (thing, calls) in calls.iter().filter(|(thing, _)| look.scope.has(thing)) {
        let is = look.things.get(*thing);
        if !can_be(calls, is, look.begin) {
            let is = is.map_or_else(|| "not there".to_owned(), ToString::to_string);
            let told = format!(
                "in the end {thing} is {is} with replica {}; answered was: {}",
                look.replica,
                say(calls)
            );
            violations.push(Violation::new(Rule::NothingLost, told));
        }
    }
    let bystanders = history.bystanders.iter().filter(|thing| look.scope.has(thing));
    for thing in bystanders.filter(|thing| !look.things.contains_key(*thing)) {
        let told = format!("in the end {thing} is not there with replica {}", look.replica);
        violations.push(Violation::new(Rule::NothingLost, told));
    }
    violations
}

/// Whether a thing can be so at a moment when all these calls are over that will ever be answered.
fn can_be(calls: &[&Call], is: Option<&Held>, at: Duration) -> bool {
    let done = calls.iter().filter(|call| call.result().is_some() && call.was_over(at));
    let latest = done.max_by_key(|call| call.end);
    let since = latest.map_or(Duration::ZERO, |latest| latest.begin);
    // Done at the same time as the latest, or perhaps later.
    let mut others = calls.iter().filter(|call| !call.was_over(since));
    let result = latest.and_then(|latest| latest.result()).flatten();
    match (is, result) {
        (None, None) => true,
        (None, Some(was)) => others.any(|call| call.may_end(was)),
        (Some(is), _) => {
            let asks = |call: &Call| {
                call.outcome == Outcome::Unknown && call.wish == Wish::Take { instance: is.instance }
            };
            result == Some(is) || others.any(|call| call.held() == Some(is) || asks(call))
        }
    }
}

fn say(calls: &[&Call]) -> String {
    let told = calls
        .iter()
        .rev()
        .take(4)
        .map(|call| format!("{:?} {:?} at {:.3?}", call.wish, call.outcome, call.end));
    told.collect::<Vec<_>>().join(", before that ")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{held, lease};
    use super::*;

    const AT: (u64, u64) = (100, 101);

    fn taken() -> History {
        History::default().took(lease("a"), (0, 1), held(1, 5, 1))
    }

    #[test]
    fn what_was_acknowledged_is_there() {
        let history = taken().look(0, AT, 9, [(lease("a"), held(1, 5, 1))]).last();
        assert_eq!(history.broken(), []);
        assert_eq!(taken().look(0, AT, 9, []).last().broken(), [Rule::NothingLost]);
    }

    #[test]
    fn what_was_given_back_is_gone() {
        let given = || taken().gave(lease("a"), (2, 3), 5);
        assert_eq!(given().look(0, AT, 9, []).last().broken(), []);
        let still = given().look(0, AT, 9, [(lease("a"), held(1, 5, 1))]).last();
        assert_eq!(still.broken(), [Rule::NothingLost]);
    }

    #[test]
    fn an_earlier_answer_is_not_enough() {
        let history = taken()
            .took(lease("a"), (2, 3), held(1, 6, 2))
            .look(0, AT, 9, [(lease("a"), held(1, 5, 1))])
            .last();
        assert_eq!(history.broken(), [Rule::NothingLost]);
    }

    #[test]
    fn calls_without_an_answer_leave_a_choice() {
        let given = || taken().call(lease("a"), (2, 3), Wish::Give { epoch: 5 }, Outcome::Unknown);
        assert_eq!(given().look(0, AT, 9, []).last().broken(), []);
        assert_eq!(given().look(0, AT, 9, [(lease("a"), held(1, 5, 1))]).last().broken(), []);
        let taken_again = || {
            let open = Wish::Take { instance: 2 };
            taken().call(lease("a"), (2, 3), open, Outcome::Unknown).gave(lease("a"), (4, 5), 5)
        };
        // It was stopped with the call in its hand, and did it after the release.
        assert_eq!(taken_again().look(0, AT, 9, [(lease("a"), held(2, 8, 2))]).last().broken(), []);
        let other = taken_again().look(0, AT, 9, [(lease("a"), held(2, 8, 3))]).last();
        assert_eq!(other.broken(), [Rule::AskedFor, Rule::NothingLost]);
    }

    #[test]
    fn calls_at_the_same_time_leave_a_choice() {
        let both = || taken().gave(lease("a"), (2, 5), 5).took(lease("a"), (3, 6), held(2, 7, 2));
        assert_eq!(both().look(0, AT, 9, [(lease("a"), held(2, 7, 2))]).last().broken(), []);
        // The release was of the lease before, so it came first.
        assert_eq!(both().look(0, AT, 9, []).last().broken(), [Rule::NothingLost]);
        let kept = Outcome::Done(Some(held(1, 5, 1)));
        let both = || taken().gave(lease("a"), (2, 5), 5).call(lease("a"), (3, 6), Wish::Keep, kept.clone());
        assert_eq!(both().look(0, AT, 9, []).last().broken(), []);
        assert_eq!(both().look(0, AT, 9, [(lease("a"), held(1, 5, 1))]).last().broken(), []);
    }

    #[test]
    fn a_bystander_is_there() {
        let mut history = History::default().look(0, AT, 9, []).last();
        history.bystanders.insert(lease("x"));
        assert_eq!(history.broken(), [Rule::NothingLost]);
    }
}
