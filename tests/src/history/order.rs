//! What was answered of one thing fits together.
//!
//! ```text
//!  answered: epoch 5 ─ … ─ answered: epoch 7 ─ … ─ given back: 7 ─ … ─ answered: 8 or more
//!           └ no other call in between: 5 again, or, for another instance, more; the same subnets
//! ```

use super::{Call, Outcome, Rule, Violation, Wish};

/// The calls are of one thing, in the order in which they began.
pub(super) fn check(calls: &[&Call]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (place, later) in calls.iter().enumerate() {
        // Those that were surely done before it began.
        let before: Vec<&Call> =
            calls[..place].iter().copied().filter(|call| done_before(call, later)).collect();
        violations.extend(goes_up(&before, later));
        if let Some(latest) = before.iter().max_by_key(|call| call.end) {
            violations.extend(stays(calls, latest, later));
        }
    }
    violations
}

fn done_before(call: &Call, later: &Call) -> bool {
    call.result().is_some() && call.was_over(later.begin)
}

fn goes_up(before: &[&Call], later: &Call) -> Option<Violation> {
    let is = later.held()?;
    let least = |call: &Call| match (call.held(), call.wish) {
        (Some(was), _) => was.epoch,
        // That one is over.
        (None, Wish::Give { epoch }) if epoch > 0 => epoch + 1,
        (None, _) => 0,
    };
    let highest = before.iter().max_by_key(|call| least(call))?;
    (is.epoch < least(highest)).then(|| {
        let told = format!(
            "{}: {} came to {is}, after {} had come to {:?}",
            later.thing,
            say(later),
            say(highest),
            highest.outcome
        );
        Violation::new(Rule::EpochsGoUp, told)
    })
}

fn stays(calls: &[&Call], latest: &Call, later: &Call) -> Option<Violation> {
    let (was, is) = (latest.held()?, later.held()?);
    let others = calls.iter().copied().filter(|call| {
        !std::ptr::eq(*call, latest)
            && !std::ptr::eq(*call, later)
            && call.begin < later.end
            && !call.was_over(latest.begin)
    });
    let others: Vec<&Call> = others.collect();
    if others.iter().any(|call| call.may_end(was)) {
        return None;
    }
    let same_instance = match later.wish {
        Wish::Take { instance } => instance == was.instance,
        Wish::Keep | Wish::Give { .. } => true,
    };
    let taken = others.iter().any(|call| call.may_take());
    let fits = is.slots == was.slots
        && (taken || if same_instance { is.epoch == was.epoch } else { is.epoch > was.epoch });
    (!fits).then(|| {
        let told = format!("{}: {} came to {is}, and nobody had ended {was}", later.thing, say(later));
        Violation::new(Rule::StaysAsItIs, told)
    })
}

fn say(call: &Call) -> String {
    let state = if call.outcome == Outcome::Unknown { "unanswered " } else { "" };
    format!("{state}{:?} at {:.3?} to {:.3?}", call.wish, call.begin, call.end)
}

#[cfg(test)]
mod tests {
    use super::super::History;
    use super::super::testing::{held, lease};
    use super::*;

    fn first() -> History {
        History::default().took(lease("a"), (0, 1), held(1, 5, 1))
    }

    fn kept(history: History, at: (u64, u64), epoch: u64) -> History {
        history.call(lease("a"), at, Wish::Keep, Outcome::Done(Some(held(1, epoch, 1))))
    }

    #[test]
    fn a_life_as_it_should_be_breaks_nothing() {
        let history = kept(first(), (2, 3), 5)
            .took(lease("a"), (4, 5), held(1, 5, 1))
            .took(lease("a"), (6, 7), held(1, 6, 2))
            .gave(lease("a"), (8, 9), 6)
            .took(lease("a"), (10, 11), held(3, 7, 2));
        assert_eq!(history.broken(), []);
    }

    #[test]
    fn an_epoch_that_goes_back_is_found() {
        let history = first().took(lease("a"), (2, 3), held(1, 8, 2)).took(lease("a"), (4, 5), held(1, 7, 3));
        assert!(history.broken().contains(&Rule::EpochsGoUp), "{:?}", history.check());
    }

    #[test]
    fn a_lease_that_was_given_back_is_not_there_again() {
        let history = kept(first().gave(lease("a"), (2, 3), 5), (4, 5), 5);
        assert_eq!(history.broken(), [Rule::EpochsGoUp]);
        // While the two are under way it may be either.
        let history = kept(first().gave(lease("a"), (2, 5), 5), (4, 6), 5);
        assert_eq!(history.broken(), []);
    }

    #[test]
    fn a_lease_that_became_another_one_by_itself_was_lost_in_between() {
        assert_eq!(kept(first(), (2, 3), 6).broken(), [Rule::StaysAsItIs]);
        let other_subnet = first().took(lease("a"), (2, 3), held(2, 6, 2));
        assert_eq!(other_subnet.broken(), [Rule::StaysAsItIs]);
        let other_instance = first().took(lease("a"), (2, 3), held(1, 5, 2));
        assert_eq!(other_instance.broken(), [Rule::StaysAsItIs]);
    }

    #[test]
    fn a_call_that_nobody_has_answered_explains_it() {
        let open = |wish| first().call(lease("a"), (2, 3), wish, Outcome::Unknown);
        let taken = kept(open(Wish::Take { instance: 1 }), (4, 5), 6);
        assert_eq!(taken.broken(), []);
        let given = open(Wish::Give { epoch: 5 }).took(lease("a"), (4, 5), held(2, 6, 2));
        assert_eq!(given.broken(), []);
        // Not if it was of another epoch.
        let given = open(Wish::Give { epoch: 4 }).took(lease("a"), (4, 5), held(2, 6, 2));
        assert_eq!(given.broken(), [Rule::StaysAsItIs]);
    }
}
