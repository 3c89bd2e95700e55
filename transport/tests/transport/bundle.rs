//! Identity directories: what is written, and what is refused with which words.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use loden_transport::{Bundle, BundleError};
use rustix::fs::Mode;
use rustix::process::umask;

use crate::pki::Authority;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn what_was_written_is_read_and_private_whatever_the_umask() {
    let authority = Authority::new();
    let bundle = authority.bundle("node/a", &[]);
    let directory = tempfile::tempdir().unwrap();
    let identity = directory.path().join("deep/identity");
    let before = umask(Mode::empty());
    bundle.write(&identity).unwrap();
    umask(before);
    assert_eq!(Bundle::read(&identity).unwrap(), bundle);
    assert_eq!(mode(&identity), 0o700);
    for name in ["ca.crt", "tls.crt", "tls.key"] {
        assert_eq!(mode(&identity.join(name)), 0o600, "{name}");
    }
}

#[test]
fn a_bundle_is_replaced_as_a_whole_and_leaves_nothing_behind() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let identity = directory.path().join("identity");
    authority.bundle("node/a", &[]).write(&identity).unwrap();
    // Half a bundle of an earlier crash is no obstacle.
    let leftover = directory.path().join(".identity.new");
    fs::create_dir(&leftover).unwrap();
    fs::write(leftover.join("tls.key"), "half").unwrap();

    authority.bundle("node/b", &[]).write(&identity).unwrap();
    assert_eq!(Bundle::read(&identity).unwrap().id().to_string(), "spiffe://demo/node/b");
    let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["identity"]);
}

#[test]
fn many_may_write_at_once_and_only_one_replaces_what_it_has_seen() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let identity = directory.path().join("identity");
    let bundles: Vec<_> = (0..4).map(|n| authority.bundle(&format!("node/n{n}"), &[])).collect();
    bundles[0].write(&identity).unwrap();
    std::thread::scope(|scope| {
        for bundle in &bundles {
            scope.spawn(|| (0..20).for_each(|_| bundle.write(&identity).unwrap()));
        }
    });
    let present = Bundle::read(&identity).unwrap();
    assert!(bundles.contains(&present));
    let replaced = bundles.iter().filter(|bundle| bundle.replace(&identity, &present).unwrap()).count();
    let own = usize::from(bundles[0] == present);
    assert_eq!(replaced, 1 + own, "its own replaces nothing");
    let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["identity"]);
}

#[test]
fn a_directory_with_other_files_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("precious"), "data").unwrap();
    let error = Authority::new().bundle("node/a", &[]).write(directory.path()).unwrap_err();
    assert!(matches!(error, BundleError::Foreign { .. }), "{error}");
    assert!(error.to_string().contains("precious"), "{error}");
    assert_eq!(fs::read_to_string(directory.path().join("precious")).unwrap(), "data");
}

#[test]
fn errors_name_the_file_and_what_is_wrong_with_it() {
    let authority = Authority::new();
    let bundle = authority.bundle("node/a", &[]);
    let other = authority.bundle("node/a", &[]);
    let (two_ids, two_ids_key) =
        authority.issue(&["spiffe://demo/node/a", "spiffe://demo/node/b"], &[], |_| ());
    let (no_id, no_id_key) = authority.issue(&[], &["a.example.org"], |_| ());
    let directory = tempfile::tempdir().unwrap();
    let identity = directory.path().join("identity");
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned();

    let text = |pem: &str| pem.to_owned();
    let (ca, certificate, key) = (bundle.ca_pem(), bundle.certificate_pem(), bundle.key_pem());
    let cases = [
        ([text(""), text(certificate), text(key)], "ca.crt: holds no PEM certificate"),
        ([broken.clone(), text(certificate), text(key)], "ca.crt: "),
        ([text(ca), text(key), text(key)], "tls.crt: holds no PEM certificate"),
        ([text(ca), broken, text(key)], "tls.crt: the certificate cannot be parsed"),
        ([text(ca), text(certificate), text(ca)], "tls.key: holds no PEM private key"),
        (
            [text(ca), text(certificate), text(other.key_pem())],
            "tls.key: is not the key of the certificate in tls.crt",
        ),
        ([text(ca), two_ids, two_ids_key], "tls.crt: the certificate names 2 URIs; exactly one is required"),
        ([text(ca), no_id, no_id_key], "tls.crt: the certificate names 0 URIs; exactly one is required"),
    ];
    for ([ca, certificate, key], expected) in cases {
        bundle.write(&identity).unwrap();
        for (name, text) in [("ca.crt", ca), ("tls.crt", certificate), ("tls.key", key)] {
            fs::write(identity.join(name), text).unwrap();
        }
        let message = Bundle::read(&identity).unwrap_err().to_string();
        assert!(message.contains(&format!("{}/{expected}", identity.display())), "{expected}: {message}");
    }
    fs::remove_file(identity.join("tls.key")).unwrap();
    let error = Bundle::read(&identity).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("identity/tls.key: No such file"), "{message}");
    assert!(std::error::Error::source(&error).is_none(), "it would be said twice");
}

#[test]
fn the_key_is_never_shown() {
    let bundle = Authority::new().bundle("node/a", &[]);
    assert_eq!(format!("{bundle:?}").matches("PRIVATE").count(), 0);
}
