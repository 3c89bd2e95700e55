use std::time::Duration;

use loden_proto::convert::TokenOrder;
use loden_proto::model::TokenId;

use crate::ledger::testing::{Rig, acquire, name, network, renew, reserve};
use crate::ledger::{Command, Farewell, Joiner, LeaseState, Member, Refusal, Shut};

const ID: TokenId = TokenId(7);
const TTL: u64 = 900;

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.must(network("blue", &["10.1.0.0/22"]));
    rig.must(network("red", &["10.2.0.0/22"]));
    rig
}

fn token(node: Option<&str>, networks: &[&str], uses: u32) -> Command {
    let networks = Some(networks.iter().map(|id| id.parse().unwrap()).collect::<Vec<_>>());
    let order = TokenOrder {
        node: node.map(|node| node.parse().unwrap()),
        networks: networks.filter(|networks| !networks.is_empty()),
        uses,
        ttl: Duration::from_secs(TTL),
    };
    Command::CreateToken { id: ID, secret: "secret".into(), order }
}

fn join(node: Option<&str>, key: &str) -> Command {
    let node = node.map(|node| node.parse().unwrap());
    Command::Join(Joiner { token: ID, secret: "secret".into(), node, key: key.into(), connected: false })
}

fn shut_out(rig: &Rig, node: &str, farewell: Farewell) -> Command {
    let node = node.parse().unwrap();
    Command::ShutOut { epoch: rig.ledger.identity_epoch(&node) + 1, node, farewell }
}

fn with_epoch(network: &str, node: &str, epoch: u32) -> Command {
    let mut command = acquire(network, node, 1);
    let Command::AcquireLease { identity_epoch, .. } = &mut command else { panic!() };
    *identity_epoch = epoch;
    command
}

fn member(rig: &Rig, node: &str) -> Member {
    rig.ledger.member(&node.parse().unwrap()).unwrap()
}

fn shut(rig: &mut Rig, command: Command) -> Shut {
    match rig.refused(command) {
        Refusal::Shut(shut) => shut,
        other => panic!("{other}"),
    }
}

#[test]
fn a_token_lets_in_as_many_new_nodes_as_it_says_and_each_once() {
    let mut rig = rig();
    rig.must(token(None, &[], 2));
    rig.must(join(Some("a"), "key of a"));
    let again = rig.must(join(Some("a"), "key of a"));
    assert!(again.changes.is_empty(), "its answer was lost");
    assert_eq!(shut(&mut rig, join(Some("a"), "another key")), Shut::Known("a".parse().unwrap()));
    assert_eq!(shut(&mut rig, join(Some("b"), "key of a")), Shut::Spent(ID));
    rig.must(join(Some("b"), "key of b"));
    assert_eq!(rig.ledger.token(ID).unwrap().left, 0);
    assert_eq!(shut(&mut rig, join(Some("c"), "key of c")), Shut::Spent(ID));
    let expected =
        Member { node: "a".parse().unwrap(), epoch: 0, networks: None, shut_out: None, deleted: false };
    assert_eq!(member(&rig, "a"), expected);
    rig.check();
}

#[test]
fn who_does_not_know_the_secret_learns_nothing_of_the_token() {
    let mut rig = rig();
    let unknown = shut(&mut rig, join(Some("a"), "k"));
    rig.must(token(Some("a"), &[], 1));
    let mut wrong = join(None, "k");
    let Command::Join(Joiner { secret, .. }) = &mut wrong else { panic!() };
    *secret = "guess".into();
    assert_eq!(shut(&mut rig, wrong.clone()), unknown);
    rig.pass(TTL);
    assert_eq!(shut(&mut rig, wrong), unknown, "not even that it has expired");
    assert_eq!(shut(&mut rig, join(None, "k")), Shut::Expired(ID));
}

#[test]
fn a_token_for_a_node_lets_in_that_node_alone() {
    let mut rig = rig();
    rig.must(acquire("blue", "a", 1));
    rig.must(token(Some("a"), &[], 1));
    let told = shut(&mut rig, join(Some("b"), "k")).to_string();
    assert_eq!(told, "node: \"b\" may not join with tokens/00000007, which is for \"a\"");
    rig.must(join(None, "k"));
    assert_eq!(shut(&mut rig, join(Some("a"), "another")), Shut::Spent(ID));
}

#[test]
fn a_node_that_has_a_lease_or_is_expected_or_is_there_is_no_new_one() {
    let mut rig = rig();
    rig.must(acquire("blue", "a", 1));
    rig.must(reserve("red", "b", "10.2.1.0/24"));
    rig.must(token(None, &[], 1));
    assert_eq!(shut(&mut rig, join(Some("a"), "k")), Shut::Known("a".parse().unwrap()));
    assert_eq!(shut(&mut rig, join(Some("b"), "k")), Shut::Known("b".parse().unwrap()));
    let mut connected = join(Some("c"), "k");
    let Command::Join(joiner) = &mut connected else { panic!() };
    joiner.connected = true;
    assert_eq!(shut(&mut rig, connected.clone()), Shut::Known("c".parse().unwrap()));
    rig.must(Command::DeleteToken { id: ID });
    rig.must(token(Some("c"), &[], 1));
    rig.must(connected);
    rig.must(Command::DeleteToken { id: ID });
    rig.must(token(None, &[], 1));
    let unnamed = rig.refused(join(None, "k")).to_string();
    assert_eq!(unnamed, "node: is required");
}

#[test]
fn a_node_is_kept_to_the_networks_of_its_token() {
    let mut rig = rig();
    rig.refused(token(None, &["green"], 1));
    rig.must(token(None, &["red"], 1));
    rig.must(join(Some("a"), "k"));
    rig.must(acquire("red", "a", 1));
    let told = rig.refused(acquire("blue", "a", 1)).to_string();
    assert_eq!(told, "nodes/a may have leases in red only");
}

#[test]
fn a_node_that_is_shut_out_comes_back_by_a_token_of_its_own_to_its_own_subnets() {
    let mut rig = rig();
    for network in ["blue", "red"] {
        rig.must(acquire(network, "a", 1));
        rig.must(acquire(network, "b", 1));
    }
    rig.must(reserve("red", "a", &rig.subnets("red", "a")));
    let own = rig.subnets("blue", "a");
    rig.must(token(Some("a"), &[], 1));
    let command = shut_out(&rig, "a", Farewell::Hold);
    rig.must(command.clone());
    assert!(rig.must(command).changes.is_empty(), "once is enough");
    assert_eq!(rig.ledger.token(ID), None, "what was made for it is void");
    for network in ["blue", "red"] {
        assert!(matches!(rig.lease(network, "a").state, LeaseState::Held { .. }));
        assert_eq!(rig.lease(network, "b").state, LeaseState::Active);
        let revoked = Shut::Revoked("a".parse().unwrap());
        assert_eq!(shut(&mut rig, renew(network, "a")), revoked, "an open stream does not revive it");
        assert_eq!(shut(&mut rig, acquire(network, "a", 1)), revoked);
    }
    rig.must(token(None, &[], 9));
    assert_eq!(shut(&mut rig, join(Some("a"), "k")), Shut::Known("a".parse().unwrap()));
    rig.must(Command::DeleteToken { id: ID });
    rig.must(token(Some("a"), &[], 1));
    rig.must(join(None, "k"));
    assert_eq!((member(&rig, "a").epoch, member(&rig, "a").shut_out), (1, None));
    assert!(matches!(rig.refused(acquire("blue", "a", 1)), Refusal::Shut(Shut::Revoked(_))), "epoch 0");
    rig.must(with_epoch("blue", "a", 1));
    assert_eq!(rig.subnets("blue", "a"), own);
    rig.check();
}

#[test]
fn who_was_let_in_and_then_shut_out_is_not_let_in_again_by_the_answer_that_was_lost() {
    let mut rig = rig();
    rig.must(token(None, &[], 2));
    rig.must(join(Some("a"), "k"));
    let command = shut_out(&rig, "a", Farewell::Hold);
    rig.must(command);
    assert_eq!(shut(&mut rig, join(Some("a"), "k")), Shut::NoToken(ID));
}

#[test]
fn a_node_that_was_issued_a_certificate_of_the_new_epoch_by_hand_is_back() {
    let mut rig = rig();
    rig.must(acquire("blue", "a", 1));
    let command = shut_out(&rig, "a", Farewell::Hold);
    rig.must(command);
    rig.must(with_epoch("blue", "a", 1));
    assert_eq!(member(&rig, "a").shut_out, None);
    rig.must(renew("blue", "a"));
    rig.check();
}

#[test]
fn a_revocation_is_above_what_was_issued_by_hand_and_used() {
    let mut rig = rig();
    rig.must(with_epoch("blue", "a", 7));
    assert_eq!((member(&rig, "a").epoch, member(&rig, "a").networks), (7, None));
    assert!(rig.must(with_epoch("blue", "a", 7)).changes.is_empty());
    let command = shut_out(&rig, "a", Farewell::Hold);
    rig.must(command);
    assert!(matches!(rig.refused(with_epoch("blue", "a", 7)), Refusal::Shut(Shut::Revoked(_))));
    rig.must(with_epoch("blue", "a", 9));
    assert_eq!((member(&rig, "a").epoch, member(&rig, "a").shut_out), (9, None));
    rig.check();
}

#[test]
fn whoever_comes_with_a_higher_epoch_is_remembered_though_it_acquires_nothing() {
    let mut rig = rig();
    let see = |epoch| Command::See { node: "a".parse().unwrap(), epoch };
    rig.must(see(5));
    assert_eq!(member(&rig, "a").epoch, 5);
    let command = shut_out(&rig, "a", Farewell::Hold);
    rig.must(command);
    assert!(rig.must(see(5)).changes.is_empty() && rig.must(see(6)).changes.is_empty());
    assert!(member(&rig, "a").shut_out.is_some() && rig.ledger.identity_epoch(&"a".parse().unwrap()) == 6);
    rig.check();
}

#[test]
fn tokens_that_a_node_has_joined_with_go_with_it() {
    let mut rig = rig();
    rig.must(token(None, &[], 5));
    rig.must(join(Some("a"), "key of a"));
    rig.must(join(Some("b"), "key of b"));
    let command = shut_out(&rig, "a", Farewell::Hold);
    rig.must(command);
    assert_eq!(rig.ledger.token(ID), None, "whoever has the host has the token");
    assert_eq!(shut(&mut rig, join(Some("c"), "key of c")), Shut::NoToken(ID));
    assert_eq!(member(&rig, "b").shut_out, None);
    rig.check();
}

#[test]
fn a_node_that_is_kept_to_networks_leaves_the_others() {
    let mut rig = rig();
    for network in ["blue", "red"] {
        rig.must(acquire(network, "a", 1));
    }
    rig.must(token(Some("a"), &["red"], 1));
    rig.must(join(None, "k"));
    assert!(matches!(rig.lease("blue", "a").state, LeaseState::Held { .. }));
    assert_eq!(rig.lease("red", "a").state, LeaseState::Active);
    assert!(matches!(rig.refused(renew("blue", "a")), Refusal::Shut(Shut::Network { .. })));
    rig.check();
}

#[test]
fn a_node_that_is_deleted_leaves_its_name_and_its_subnets() {
    let mut rig = rig();
    rig.must(acquire("blue", "a", 1));
    let command = shut_out(&rig, "a", Farewell::Release);
    rig.must(command);
    assert_eq!(rig.ledger.lease(&name("blue", "a")), None);
    assert!(member(&rig, "a").deleted);
    rig.must(token(None, &[], 1));
    rig.must(join(Some("a"), "k"));
    assert_eq!(member(&rig, "a").epoch, 1, "the certificates of before stay void");
    rig.check();
}

#[test]
fn a_node_of_many_networks_is_shut_out_at_once_and_then_everywhere() {
    let mut rig = Rig::new();
    for index in 0..120 {
        let id = format!("n{index}");
        rig.must(network(&id, &[&format!("10.{index}.0.0/22")]));
        rig.must(acquire(&id, "a", 1));
    }
    let first = rig.decide(&shut_out(&rig, "a", Farewell::Hold)).unwrap();
    assert!(first.more);
    assert!(first.changes.iter().any(|change| change.key().as_str() == "identity/a"), "before the leases");
    let command = shut_out(&rig, "a", Farewell::Hold);
    rig.must(command);
    assert!(rig.ledger.leases(None, None).all(|lease| lease.state != LeaseState::Active));
    rig.check();
}

#[test]
fn tokens_are_forgotten_and_who_has_spent_them_as_well() {
    let mut rig = rig();
    rig.must(token(None, &[], 2));
    rig.must(join(Some("a"), "k"));
    rig.must(Command::Tidy);
    assert!(rig.ledger.token(ID).is_some());
    rig.pass(TTL);
    rig.must(Command::Tidy);
    assert_eq!(rig.ledger.tokens(None).count(), 0);
    assert_eq!(rig.ledger.members.spent.len(), 0);
    assert_eq!(member(&rig, "a").epoch, 0, "who has joined stays");
    rig.check();
}
