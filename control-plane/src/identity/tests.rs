//! Kept over starts, private, and made anew in time.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

const VALIDITY: Duration = Duration::from_secs(24 * 3600);

fn cluster() -> ClusterName {
    "loden".parse().unwrap()
}

fn open(directory: &Path) -> Pki {
    Pki::open_or_create(directory, &cluster(), SystemTime::now()).unwrap()
}

#[test]
fn everything_is_private_and_kept_over_starts() {
    let state = tempfile::tempdir().unwrap();
    let directory = state.path().join("pki");
    let first = open(&directory);
    let server = first.server(&"one".parse().unwrap(), &[], VALIDITY, SystemTime::now()).unwrap();
    for (name, mode) in [
        ("", 0o700),
        ("ca.crt", 0o600),
        ("ca.key", 0o600),
        ("token.key", 0o600),
        ("unproven", 0o600),
        ("admin", 0o700),
        ("admin/tls.key", 0o600),
        ("server", 0o700),
        ("server/tls.key", 0o600),
    ] {
        let path = directory.join(name);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode, "{name}");
    }

    fs::remove_file(first.unproven_note()).unwrap();

    let second = open(&directory);
    assert!(!second.unproven_note().exists(), "it comes with what is new only");
    assert_eq!(second.authority().certificate_pem(), first.authority().certificate_pem());
    assert_eq!(second.token_key().unwrap(), first.token_key().unwrap());
    let again = second.server(&"one".parse().unwrap(), &[], VALIDITY, SystemTime::now()).unwrap();
    assert_eq!(again, server);
    let admin = Bundle::read(&directory.join("admin")).unwrap();
    assert_eq!(admin.id().to_string(), "spiffe://loden/admin/admin");

    let key = second.token_key().unwrap();
    fs::remove_file(directory.join("token.key")).unwrap();
    let third = open(&directory);
    assert!(third.unproven_note().exists() && third.token_key().unwrap() != key);
}

#[test]
fn the_servers_certificate_is_made_anew_before_it_expires_and_for_new_names() {
    let state = tempfile::tempdir().unwrap();
    let pki = open(state.path());
    let (name, now) = ("one".parse().unwrap(), SystemTime::now());
    let first = pki.server(&name, &[], VALIDITY, now).unwrap();
    let later = now + VALIDITY / 2 - Duration::from_secs(60);
    assert_eq!(pki.server(&name, &[], VALIDITY, later).unwrap(), first);
    let late = pki.server(&name, &[], VALIDITY, later + Duration::from_secs(120)).unwrap();
    assert_ne!(late, first);
    let named = pki.server(&name, &["192.0.2.1".parse().unwrap()], VALIDITY, now).unwrap();
    assert_ne!(named, late);
    assert_eq!(pki.server(&name, &["192.0.2.1".parse().unwrap()], VALIDITY, now).unwrap(), named);
}

#[test]
fn a_start_that_was_cut_off_after_the_key_goes_on_with_it() {
    let state = tempfile::tempdir().unwrap();
    let key = Authority::new_key().unwrap();
    fs::write(state.path().join("ca.key"), &key).unwrap();
    open(state.path());
    assert_eq!(fs::read_to_string(state.path().join("ca.key")).unwrap(), key);
}

#[test]
fn what_is_wrong_is_named() {
    let state = tempfile::tempdir().unwrap();
    drop(open(state.path()));
    let other = "other".parse().unwrap();
    let error = Pki::open_or_create(state.path(), &other, SystemTime::now()).unwrap_err();
    assert!(error.to_string().ends_with("is the CA of cluster \"loden\", not of \"other\""), "{error}");
    fs::write(state.path().join("token.key"), "short").unwrap();
    let error = open(state.path()).token_key().unwrap_err();
    assert!(error.to_string().ends_with("token.key: must be a key of 32 bytes"), "{error}");
    fs::remove_file(state.path().join("ca.key")).unwrap();
    let error = Pki::open_or_create(state.path(), &cluster(), SystemTime::now()).unwrap_err();
    assert!(error.to_string().contains("ca.key is missing"), "{error}");
}

#[test]
fn nothing_outlives_a_ca_that_ends_soon_and_nothing_fails_for_that() {
    let state = tempfile::tempdir().unwrap();
    let pki = open(state.path());
    let soon = pki.authority().expires() - Duration::from_secs(3600);
    let server = pki.server(&"one".parse().unwrap(), &[], VALIDITY, soon).unwrap();
    assert_eq!(server.holder().unwrap().expires, pki.authority().expires());
    assert_eq!(pki.server(&"one".parse().unwrap(), &[], VALIDITY, soon).unwrap(), server, "once is enough");
    fs::remove_dir_all(state.path().join("admin")).unwrap();
    pki.rotate(Step::Prepare, VALIDITY, soon).unwrap();
    let admin = Bundle::read(&state.path().join("admin")).unwrap();
    assert_eq!(admin.holder().unwrap().expires, pki.authority().expires());
    let late = pki.authority().expires() + Duration::from_secs(1);
    let error = pki.server(&"two".parse().unwrap(), &[], VALIDITY, late).unwrap_err().to_string();
    assert!(error.contains("ends after the CA"), "{error}");
}
