//! Which files go and which stay.

use std::os::unix::net::UnixListener;
use std::sync::mpsc;
use std::time::Duration;

use loden_proto::model::Epoch;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::*;
use crate::state::{Content, Held, Rest};
use crate::testing::{facts, network, peer};

fn known() -> Vec<Kept> {
    let held = Held { subnets: peer(9).subnets, epoch: Epoch(1) };
    vec![Kept { lease: Some((held, network())), ..Kept::default() }]
}

#[test]
fn only_configurations_that_an_agent_wrote_go() {
    let root = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(root.path().join(name), text).unwrap();
    write("10-loden-default.conflist", &conflist::render(&network(), &peer(9).subnets, 1450));
    write("20-loden-blue.conflist", "{\"name\": \"mine\"}");
    write("10-flannel.conflist", "{\"name\": \"loden-default\"}");
    let mut outcome = Outcome::default();
    assert_eq!(outcome.conflists(root.path()), ["lodenbr1".parse().unwrap()]);
    assert_eq!(outcome.conflists(&root.path().join("missing")), []);
    assert_eq!((outcome.removed.len(), outcome.kept.len(), outcome.failed.len()), (1, 1, 0));
    assert!(outcome.kept[0].ends_with("20-loden-blue.conflist: no agent wrote it"), "{outcome:?}");
    assert!(root.path().join("10-flannel.conflist").exists());
}

#[test]
fn a_subnet_file_goes_when_its_subnet_was_ours() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("subnet.env");
    let outcome = |text: &str| {
        fs::write(&path, text).unwrap();
        let mut outcome = Outcome::default();
        outcome.subnet_file(&path, &known());
        (outcome.removed.len(), outcome.kept.len())
    };
    assert_eq!(outcome("FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.8.1/24\n"), (0, 1));
    assert_eq!(outcome("nothing"), (0, 1));
    assert_eq!(outcome(&subnet_file::render(&network(), &peer(9).subnets, 1450)), (1, 0));
    assert!(!path.exists());
    let mut again = Outcome::default();
    again.subnet_file(&path, &known());
    assert!(again.removed.is_empty() && again.kept.is_empty());
}

#[test]
fn a_socket_goes_when_nobody_listens_on_it() {
    let root = tempfile::tempdir().unwrap();
    let [dead, live, file, missing] = ["dead", "live", "file", "missing"].map(|name| root.path().join(name));
    drop(UnixListener::bind(&dead).unwrap());
    let _listener = UnixListener::bind(&live).unwrap();
    fs::write(&file, "mine").unwrap();
    let mut outcome = Outcome::default();
    for path in [&dead, &live, &file, &missing] {
        outcome.socket(path);
    }
    assert_eq!(outcome.removed, [dead.display().to_string()]);
    let kept = |path: &Path, why| format!("{}: {why}", path.display());
    assert_eq!(outcome.kept, [kept(&live, "somebody listens on it"), kept(&file, "it is no socket")]);
    assert!(outcome.failed.is_empty() && !dead.exists() && live.exists() && file.exists());
}

#[test]
fn what_is_no_file_is_kept_and_named() {
    let root = tempfile::tempdir().unwrap();
    let [subnet_file, conflist] =
        ["subnet.env", "10-loden-default.conflist"].map(|name| root.path().join(name));
    for place in [&subnet_file, &conflist] {
        mkfifo(place, Mode::S_IRWXU).unwrap();
    }
    let (answer, answered) = mpsc::channel();
    let (directory, path) = (root.path().to_owned(), subnet_file.clone());
    std::thread::spawn(move || {
        let mut outcome = Outcome::default();
        outcome.conflists(&directory);
        outcome.subnet_file(&path, &known());
        answer.send(outcome)
    });
    let outcome = answered.recv_timeout(Duration::from_secs(10)).expect("a pipe is waited for");
    let told = |path: &Path| format!("{}: it is a named pipe, which no agent makes", path.display());
    assert_eq!(outcome.kept, [told(&conflist), told(&subnet_file)]);
    assert_eq!((outcome.removed.len(), outcome.failed.len()), (0, 0));
}

#[test]
fn a_renamed_tunnel_is_not_removed_and_one_that_could_not_be_deleted_is_told_once() {
    let mut host = facts("192.0.2.9");
    for (name, kind, network) in [
        ("loden1a", "vxlan", Some("default")),
        ("loden2a", "vxlan", None),
        ("mine0", "vxlan", Some("default")),
        ("mine1", "bridge", Some("default")),
        ("cni0", "bridge", None),
    ] {
        let nic = facts("192.0.2.9").interfaces.remove(0);
        let (name, network) = (name.parse().unwrap(), network.map(|network| network.parse().unwrap()));
        host.interfaces.push(Interface { name, kind: Some(kind.into()), network, ..nic });
    }
    let mut outcome = Outcome::default();
    outcome.strange_devices(&host, &BTreeSet::from(["loden1a".parse().unwrap()]));
    let first = |lines: &[String]| -> Vec<String> {
        lines.iter().map(|line| line.split(':').next().unwrap().to_owned()).collect()
    };
    assert_eq!(first(&outcome.kept), ["device loden2a", "device mine1"]);
    assert_eq!(first(&outcome.failed), ["device mine0"]);
}

#[test]
fn a_bridge_that_may_be_ours_is_told_with_how_to_remove_it() {
    let mut host = facts("192.0.2.9");
    for (name, kind) in
        [("lodenbr1", "bridge"), ("lodenbr2", "bridge"), ("lodenbr3", "dummy"), ("cni0", "bridge")]
    {
        let nic = facts("192.0.2.9").interfaces.remove(0);
        host.interfaces.push(Interface { name: name.parse().unwrap(), kind: Some(kind.into()), ..nic });
    }
    let known = BTreeSet::from(["lodenbr1".parse().unwrap()]);
    let text = "bridge lodenbr2: neither the state in /nowhere nor a CNI configuration of ours names it; if it is \
                Loden's: ip link delete lodenbr2";
    assert_eq!(strange_bridges(&host, &known, Path::new("/nowhere")), [text]);
}

#[tokio::test]
async fn the_state_goes_and_the_identity_stays_unless_something_failed() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("agent");
    let identity = path.join("identity");
    let make = async || {
        let state = StateDir::open(&path).unwrap();
        state.instance(7).unwrap();
        let held = Held { subnets: peer(9).subnets, epoch: Epoch(1) };
        let content = Content::of(Some(&(held, network())), None, Rest::default()).unwrap();
        let (mut file, _) = state.network(&network().id);
        file.rewrite(content).await.unwrap();
        fs::create_dir_all(&identity).unwrap();
        state
    };
    let state = make().await;
    assert_eq!(state.kept(), known());
    assert_eq!(bridges(&state.kept()), BTreeSet::from(["lodenbr1".parse().unwrap()]));
    let mut failed = Outcome { failed: vec!["device".into()], ..Outcome::default() };
    failed.state(&path, state);
    assert!(path.join("networks/default.state").exists());

    let mut outcome = Outcome::default();
    outcome.state(&path, StateDir::open_existing(&path).unwrap().unwrap());
    assert_eq!((outcome.removed.len(), outcome.kept.len(), outcome.failed.len()), (1, 1, 0), "{outcome:?}");
    assert!(identity.exists() && !path.join("networks").exists() && !path.join("lock").exists());
    fs::remove_dir(&identity).unwrap();
    let mut outcome = Outcome::default();
    outcome.state(&path, StateDir::open_existing(&path).unwrap().unwrap());
    assert!(!path.exists() && outcome.kept.is_empty());
    assert!(StateDir::open_existing(&path).unwrap().is_none());
}
