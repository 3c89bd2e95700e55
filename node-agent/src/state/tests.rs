//! The file under torture: cut at every byte, every byte changed.

use std::time::SystemTime;

use loden_proto::model::Key;

use super::*;
use crate::peers::{Delta, PeerSet, Snapshot, Token, Update};
use crate::testing::{network, peer};

fn held() -> Held {
    Held { subnets: peer(9).subnets, epoch: Epoch(4) }
}

fn set(numbers: &[u8]) -> PeerSet {
    let mut set = PeerSet::default();
    let peers = numbers.iter().map(|number| peer(*number)).collect();
    let token = Token::from(vec![7]);
    set.apply(Update::Snapshot(Snapshot {
        peers,
        refused: Vec::new(),
        network: network().into(),
        adopting: false,
        token,
    }));
    set
}

fn delta(number: u8) -> Delta {
    Delta { upserts: vec![peer(number)], token: Some(vec![number].into()), ..Delta::default() }
}

fn content(kept: &Kept) -> Content {
    {
        let rest =
            Rest { sends_from: &kept.sends_from, keys: kept.keys.as_ref(), silent: kept.silent.clone() };
        Content::of(kept.lease.as_ref(), kept.peers.as_ref(), rest)
    }
    .unwrap()
}

/// Writes a base and four changes; answers the states in between and the file.
async fn written(dir: &StateDir) -> (Vec<Kept>, PathBuf) {
    let (mut file, kept) = dir.network(&network().id);
    assert_eq!(kept, Kept::default());
    let mut kept = Kept { lease: Some((held(), network())), peers: Some(set(&[1, 2])), ..Kept::default() };
    file.rewrite(content(&kept)).await.unwrap();
    let mut states = vec![kept.clone()];
    for number in [3, 4] {
        assert!(file.append(&delta(number)).unwrap());
        kept.peers.as_mut().unwrap().apply(Update::Delta(delta(number)));
        states.push(kept.clone());
    }
    let newer = Held { epoch: Epoch(5), ..held() };
    assert!(file.append_lease(newer, &network()).unwrap());
    kept.lease = Some((newer, network()));
    states.push(kept.clone());
    kept.sends_from = vec!["192.0.2.9".parse().unwrap()];
    assert!(file.append_addresses(&kept.sends_from).unwrap());
    states.push(kept.clone());
    let keys = Keys::new(Key::try_from(7).unwrap(), SystemTime::UNIX_EPOCH);
    kept.keys = Some(keys.turned(Key::try_from(8).unwrap(), SystemTime::UNIX_EPOCH));
    assert!(file.append_keys(kept.keys.as_ref().unwrap()).unwrap());
    states.push(kept);
    (states, file_path(dir))
}

fn file_path(dir: &StateDir) -> PathBuf {
    dir.path.join("networks/default.state")
}

fn read_back(bytes: &[u8]) -> Kept {
    file::read(bytes).map(|(kept, _)| kept).unwrap_or_default()
}

#[tokio::test]
async fn a_file_that_somebody_has_removed_is_written_anew() {
    let home = tempfile::tempdir().unwrap();
    let dir = StateDir::open(home.path()).unwrap();
    let (mut file, _) = dir.network(&network().id);
    let mut kept = Kept { lease: Some((held(), network())), peers: Some(set(&[1, 2])), ..Kept::default() };
    file.rewrite(content(&kept)).await.unwrap();
    fs::remove_dir_all(home.path().join("networks")).unwrap();
    assert!(!file.append(&delta(3)).unwrap(), "nobody would find it");
    kept.peers.as_mut().unwrap().apply(Update::Delta(delta(3)));
    file.rewrite(content(&kept)).await.unwrap();
    assert_eq!(read_back(&fs::read(file_path(&dir)).unwrap()), kept);
}

#[tokio::test]
async fn what_was_kept_is_read_back() {
    let root = tempfile::tempdir().unwrap();
    let dir = StateDir::open(root.path()).unwrap();
    let (states, _) = written(&dir).await;
    assert_eq!(dir.network(&network().id).1, states[5]);
}

#[tokio::test]
async fn a_file_cut_anywhere_is_no_state_or_a_whole_earlier_one() {
    let root = tempfile::tempdir().unwrap();
    let dir = StateDir::open(root.path()).unwrap();
    let (states, path) = written(&dir).await;
    let bytes = fs::read(&path).unwrap();
    let mut seen = Vec::new();
    for length in 0..bytes.len() {
        let kept = read_back(&bytes[..length]);
        assert!(kept == Kept::default() || states.contains(&kept), "cut at {length}: {kept:?}");
        if seen.last() != Some(&kept) {
            seen.push(kept);
        }
    }
    // Nothing until the base is whole, then each earlier state in turn.
    assert_eq!(seen, [vec![Kept::default()], states[..5].to_vec()].concat());
}

#[tokio::test]
async fn a_changed_byte_is_never_read_as_something_else() {
    let root = tempfile::tempdir().unwrap();
    let dir = StateDir::open(root.path()).unwrap();
    let (states, path) = written(&dir).await;
    let bytes = fs::read(&path).unwrap();
    for index in 0..bytes.len() {
        for bit in [0x01, 0x20, 0x80] {
            let mut damaged = bytes.clone();
            damaged[index] ^= bit;
            let kept = read_back(&damaged);
            assert_eq!(kept, Kept::default(), "byte {index} ^ {bit:#x}");
        }
    }
    assert_eq!(read_back(&bytes), states[5]);
}

#[tokio::test]
async fn a_torn_or_damaged_file_is_replaced_before_it_is_appended_to() {
    let root = tempfile::tempdir().unwrap();
    let dir = StateDir::open(root.path()).unwrap();
    let (states, path) = written(&dir).await;
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let (mut file, mut kept) = dir.network(&network().id);
    assert_eq!(kept, states[4]);
    assert!(!file.append(&delta(5)).unwrap());
    kept.peers.as_mut().unwrap().apply(Update::Delta(delta(5)));
    file.rewrite(content(&kept)).await.unwrap();
    assert!(file.append(&delta(6)).unwrap());
    kept.peers.as_mut().unwrap().apply(Update::Delta(delta(6)));
    assert_eq!(dir.network(&network().id).1, kept);
}

#[tokio::test]
async fn changes_that_outgrow_the_base_ask_for_a_new_one() {
    let root = tempfile::tempdir().unwrap();
    let dir = StateDir::open(root.path()).unwrap();
    let (mut file, _) = dir.network(&network().id);
    file.rewrite(Content::of(None, Some(&set(&[1])), Rest::default()).unwrap()).await.unwrap();
    let appended = (0..).take_while(|_| file.append(&delta(2)).unwrap()).take(10_000).count();
    assert!((100..1000).contains(&appended), "{appended}");
    file.rewrite(Content::of(None, Some(&set(&[1])), Rest::default()).unwrap()).await.unwrap();
    assert!(file.append(&delta(2)).unwrap());
}

#[test]
fn an_instance_is_made_once_and_again_when_unreadable() {
    let root = tempfile::tempdir().unwrap();
    let dir = StateDir::open(root.path()).unwrap();
    assert_eq!(dir.instance(5).unwrap(), InstanceId(5));
    assert_eq!(dir.instance(6).unwrap(), InstanceId(5));
    fs::write(root.path().join("instance"), "x").unwrap();
    assert_eq!(dir.instance(7).unwrap(), InstanceId(7));
}

#[test]
fn a_directory_serves_one_agent() {
    let root = tempfile::tempdir().unwrap();
    let first = StateDir::open(root.path()).unwrap();
    let message = StateDir::open(root.path()).unwrap_err().to_string();
    assert!(message.contains("another agent"), "{message}");
    drop(first);
    assert!(StateDir::open(root.path()).is_ok());
}
