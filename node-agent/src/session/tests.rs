//! Tables of (what happened, what to do) with a made-up clock.

use super::*;
use crate::testing::{network, peer};

/// Seconds after the start of the session.
struct Clock(Instant);

impl Clock {
    fn at(&self, seconds: f64) -> Instant {
        self.0 + Duration::from_secs_f64(seconds)
    }
}

fn session(resume: Option<Token>) -> (Session, Clock) {
    let clock = Clock(Instant::now());
    (Session::new(Timing::default(), resume, clock.0), clock)
}

fn token(number: u8) -> Token {
    Token::from(vec![number])
}

fn page(number: u8) -> Input {
    let peers = vec![peer(number)];
    Input::Message(Message::Snapshot { peers, refused: Vec::new(), end: None })
}

fn last_page(number: u8, adopting: bool) -> Input {
    let end = SnapshotEnd { network: network().into(), adopting, token: token(number) };
    Input::Message(Message::Snapshot { peers: vec![peer(number)], refused: Vec::new(), end: Some(end) })
}

fn delta(number: u8, last: bool) -> Input {
    let part = Delta { upserts: vec![peer(number)], token: last.then(|| token(number)), ..Delta::default() };
    Input::Message(Message::Delta { part, last })
}

fn heartbeat(seconds: u64) -> Input {
    let interval = Some(Duration::from_secs(seconds));
    Input::Message(Message::Heartbeat { interval, adopting: false, token: None })
}

fn words(effects: &[Effect]) -> Vec<String> {
    let names = |peers: &[Peer]| {
        let names: Vec<_> = peers.iter().map(|peer| peer.node.as_str().to_owned()).collect();
        names.join(" ")
    };
    effects
        .iter()
        .map(|effect| match effect {
            Effect::Open { resume: None, seen: None } => "open".to_owned(),
            Effect::Open { resume: None, seen: Some(token) } => format!("open, seen {:?}", token.as_bytes()),
            Effect::Open { resume: Some(token), .. } => format!("open {:?}", token.as_bytes()),
            Effect::Close(reason) => format!("close: {reason}"),
            Effect::Apply(Update::Snapshot(set)) => format!("set {}", names(&set.peers)),
            Effect::Apply(Update::Delta(delta)) => format!("delta {}", names(&delta.upserts)),
            Effect::Current { adopting: true, .. } => "adopting".to_owned(),
            Effect::Current { adopting: false, .. } => "current".to_owned(),
        })
        .collect()
}

/// Runs the steps (seconds, input, effects), with the dice at one half.
fn run(session: &mut Session, clock: &Clock, steps: &[(f64, Input, &[&str])]) {
    for (index, (seconds, input, expected)) in steps.iter().enumerate() {
        let effects = session.handle(input.clone(), clock.at(*seconds), 0.5);
        assert_eq!(words(&effects), *expected, "step {index}: {input:?}");
    }
}

#[test]
fn pages_are_applied_with_the_last_one() {
    let (mut session, clock) = session(None);
    run(
        &mut session,
        &clock,
        &[
            (0.0, Input::DeadlinePassed, &["open"]),
            (0.1, Input::Opened, &[]),
            (0.2, page(1), &[]),
            (0.3, page(2), &[]),
            (0.4, last_page(3, false), &["set node-1 node-2 node-3", "current"]),
            (0.5, delta(4, false), &[]),
            (0.6, delta(5, true), &["delta node-4 node-5", "current"]),
            (0.7, heartbeat(3), &["current"]),
        ],
    );
}

#[test]
fn a_lost_stream_resumes_after_the_last_whole_message() {
    let (mut session, clock) = session(None);
    run(
        &mut session,
        &clock,
        &[
            (0.0, Input::DeadlinePassed, &["open"]),
            (0.0, Input::Opened, &[]),
            (0.0, last_page(3, false), &["set node-3", "current"]),
            (0.1, delta(4, true), &["delta node-4", "current"]),
            (0.2, delta(5, false), &[]),
            (1.0, Input::Ended(None), &[]),
            (1.05, Input::DeadlinePassed, &[]),
            (1.1, Input::DeadlinePassed, &["open [4]"]),
            (1.1, Input::Opened, &[]),
            (1.2, heartbeat(3), &["current"]),
        ],
    );
}

#[test]
fn a_kept_set_is_resumed_and_a_delta_may_come_first() {
    let (mut session, clock) = session(Some(token(9)));
    run(
        &mut session,
        &clock,
        &[
            (0.0, Input::DeadlinePassed, &["open [9]"]),
            (0.0, Input::Opened, &[]),
            (0.0, delta(4, true), &["delta node-4", "current"]),
        ],
    );
}

#[test]
fn a_set_that_is_not_whole_is_asked_for_again() {
    let (mut session, clock) = session(None);
    run(
        &mut session,
        &clock,
        &[
            (0.0, Input::DeadlinePassed, &["open"]),
            (0.0, Input::Opened, &[]),
            (0.0, last_page(3, true), &["set node-3", "adopting"]),
            (0.1, delta(4, true), &["delta node-4", "adopting"]),
            (1.0, Input::Ended(None), &[]),
            (2.0, Input::DeadlinePassed, &["open, seen [4]"]),
            (2.0, Input::Opened, &[]),
            (2.0, last_page(5, false), &["set node-5", "current"]),
            (3.0, Input::Ended(None), &[]),
            (4.0, Input::DeadlinePassed, &["open [5]"]),
        ],
    );
}

#[test]
fn silence_of_three_announced_intervals_is_a_dead_connection() {
    let (mut session, clock) = session(None);
    run(
        &mut session,
        &clock,
        &[
            (0.0, Input::DeadlinePassed, &["open"]),
            (1.0, Input::Opened, &[]),
            (9.9, Input::DeadlinePassed, &[]),
            (9.9, last_page(1, false), &["set node-1", "current"]),
            (10.0, heartbeat(1), &["current"]),
            (12.9, Input::DeadlinePassed, &[]),
            (13.0, Input::DeadlinePassed, &["close: nothing was heard for three heartbeat intervals"]),
            (13.1, Input::DeadlinePassed, &["open [1]"]),
        ],
    );
}

#[test]
fn an_open_without_answer_is_given_up_after_three_seconds() {
    let (mut session, clock) = session(None);
    run(
        &mut session,
        &clock,
        &[
            (0.0, Input::DeadlinePassed, &["open"]),
            (2.9, Input::DeadlinePassed, &[]),
            (3.0, Input::DeadlinePassed, &["close: the server did not answer in time"]),
            (3.0, Input::Opened, &[]),
            (3.1, Input::DeadlinePassed, &["open"]),
        ],
    );
}

#[test]
fn broken_protocol_ends_the_stream_and_changes_no_peer() {
    let broken = "close: the server broke off before the last page";
    let cases: [(&[Input], &str); 4] = [
        (&[delta(1, true)], "close: the server sent a change before the peers that it changes"),
        (&[page(1), heartbeat(3)], broken),
        (&[page(1), delta(2, true)], "close: the server broke off before the last page"),
        (&[last_page(1, false), delta(2, false), page(3)], broken),
    ];
    for (inputs, expected) in cases {
        let (mut session, clock) = session(None);
        run(&mut session, &clock, &[(0.0, Input::DeadlinePassed, &["open"]), (0.0, Input::Opened, &[])]);
        let mut effects = Vec::new();
        for input in inputs {
            effects = session.handle(input.clone(), clock.at(0.1), 0.5);
        }
        assert_eq!(words(&effects), [expected], "{inputs:?}");
        assert!(!session.is_open());
    }
}

#[test]
fn late_news_of_a_dropped_stream_is_ignored() {
    let (mut session, clock) = session(None);
    for input in [Input::Opened, Input::Ended(None), page(1), last_page(1, false)] {
        assert_eq!(session.handle(input, clock.at(0.0), 0.5), []);
    }
    assert_eq!(session.deadline(), clock.at(0.0));
}

#[test]
fn waits_double_up_to_five_seconds_and_start_anew_after_a_message() {
    let (mut session, clock) = session(None);
    let mut waits = Vec::new();
    let mut now = clock.at(0.0);
    for _ in 0..7 {
        assert_eq!(words(&session.handle(Input::DeadlinePassed, now, 1.0)), ["open"]);
        session.handle(Input::Ended(None), now, 1.0);
        waits.push((session.deadline() - now).as_secs_f64());
        now = session.deadline();
    }
    assert_eq!(waits, [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]);

    session.handle(Input::DeadlinePassed, now, 1.0);
    session.handle(Input::Opened, now, 1.0);
    session.handle(last_page(1, false), now, 1.0);
    session.handle(Input::Ended(None), now, 1.0);
    assert_eq!(session.deadline() - now, Duration::from_millis(200));
}

#[test]
fn the_servers_hint_wins_over_the_back_off() {
    let (mut session, clock) = session(None);
    session.handle(Input::DeadlinePassed, clock.at(0.0), 0.0);
    session.handle(Input::Ended(Some(Duration::from_secs(20))), clock.at(0.0), 0.0);
    assert_eq!(session.deadline(), clock.at(20.0));
    session.handle(Input::DeadlinePassed, clock.at(20.0), 1.0);
    session.handle(Input::Ended(Some(Duration::from_secs(20))), clock.at(20.0), 1.0);
    assert_eq!(session.deadline(), clock.at(45.0));
}

#[test]
fn who_comes_back_when_the_server_asks_for_it_has_not_failed() {
    let (mut session, clock) = session(None);
    let (mut now, hint) = (clock.at(0.0), Duration::from_millis(40));
    for _ in 0..10 {
        session.handle(Input::DeadlinePassed, now, 1.0);
        session.handle(Input::Opened, now, 1.0);
        session.handle(Input::Ended(Some(hint)), now, 1.0);
        assert_eq!(session.deadline() - now, Duration::from_millis(50));
        now = session.deadline();
    }
    session.handle(Input::DeadlinePassed, now, 1.0);
    session.handle(Input::Ended(None), now, 1.0);
    assert_eq!(session.deadline() - now, Duration::from_millis(200));
}

#[test]
fn hastening_shortens_a_wait_and_nothing_else() {
    let (mut session, clock) = session(None);
    session.handle(Input::DeadlinePassed, clock.at(0.0), 0.0);
    let connecting = session.deadline();
    session.hasten(clock.at(1.0));
    assert_eq!(session.deadline(), connecting);
    session.handle(Input::Ended(Some(Duration::from_secs(20))), clock.at(1.0), 0.0);
    session.hasten(clock.at(2.0));
    assert_eq!(session.deadline(), clock.at(2.0));
}

#[test]
fn another_connection_is_watched_over_at_once_from_where_the_one_of_before_was() {
    let (mut session, clock) = session(None);
    run(
        &mut session,
        &clock,
        &[
            (0.0, Input::Moved, &[]),
            (0.0, Input::DeadlinePassed, &["open"]),
            (0.1, Input::Opened, &[]),
            (0.2, last_page(1, false), &["set node-1", "current"]),
            (0.3, delta(2, false), &[]),
            (0.4, Input::Moved, &["open [1]"]),
            (0.5, Input::Opened, &[]),
            (0.6, delta(2, true), &["delta node-2", "current"]),
            (0.7, Input::Moved, &["open [2]"]),
            (0.8, Input::Moved, &["open [2]"]),
        ],
    );
}
