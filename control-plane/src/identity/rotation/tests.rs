use std::fs;
use std::time::Duration;

use super::super::{Pki, Role};
use super::*;

const LIFE: Duration = Duration::from_secs(3600);

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn certificates(pem: &str) -> usize {
    pem.matches("BEGIN CERTIFICATE").count()
}

fn open(directory: &Path) -> Pki {
    Pki::open_or_create(directory, &"loden".parse().unwrap(), SystemTime::now()).unwrap()
}

#[test]
fn each_step_comes_after_the_one_before_and_changes_the_generation() {
    let state = tempfile::tempdir().unwrap();
    let (pki, now) = (open(state.path()), SystemTime::now());
    let first = pki.authority();
    let mut generations = vec![first.generation()];
    let after = |step| {
        pki.rotate(step, LIFE, now).unwrap();
        assert_eq!(
            open(state.path()).authority().trust_pem(),
            pki.authority().trust_pem(),
            "as a start finds it"
        );
        let admin = loden_transport::Bundle::read(&state.path().join("admin")).unwrap();
        assert_eq!(admin.ca_pem(), pki.authority().trust_pem(), "the first admin goes along");
        pki.authority()
    };
    for wrong in [Step::Issue, Step::Retire] {
        let error = pki.rotate(wrong, LIFE, now).unwrap_err().to_string();
        assert!(error.contains("cannot be done while the CA is Steady"), "{error}");
    }
    let prepared = after(Step::Prepare);
    assert_eq!((prepared.phase(), certificates(&prepared.trust_pem())), (Phase::Prepared, 2));
    assert_eq!(prepared.certificate_pem(), first.certificate_pem(), "it issues still");
    generations.push(prepared.generation());
    let issuing = after(Step::Issue);
    assert_eq!((issuing.phase(), certificates(&issuing.trust_pem())), (Phase::Issuing, 2));
    assert_ne!(issuing.certificate_pem(), first.certificate_pem());
    let role = Role::ControlPlane("one".parse().unwrap());
    let server = issuing.issue(role, &[], 0, Duration::from_secs(60), now).unwrap();
    assert_eq!(certificates(server.certificate_pem()), 2, "with what leads to the CA of before");
    generations.push(issuing.generation());
    let retired = after(Step::Retire);
    assert_eq!((retired.phase(), certificates(&retired.trust_pem())), (Phase::Steady, 1));
    generations.push(retired.generation());
    generations.sort_unstable();
    generations.dedup();
    assert_eq!(generations.len(), 4, "each is another one");
}

/// What a crash leaves between any two writes or removals of a switch.
#[test]
fn a_switch_that_was_cut_off_is_done_again_or_has_not_begun() {
    let state = tempfile::tempdir().unwrap();
    let (before, after) = (state.path().join("before"), state.path().join("after"));
    let now = SystemTime::now();
    open(&before).rotate(Step::Prepare, LIFE, now).unwrap();
    copy(&before, &after);
    open(&after).rotate(Step::Issue, LIFE, now).unwrap();
    let (old, new) = (load(&before).unwrap(), load(&after).unwrap());
    // In the order in which they come: those that are not there afterwards are written empty, and removed in the end.
    let writes = ["previous.until", "cross.crt", "previous.crt", "next/switch", "ca.key", "ca.crt"];
    let removals = ["next/switch", "next/ca.crt", "next/ca.key"];
    for done in 0..=writes.len() + removals.len() {
        let cut = state.path().join(format!("cut-{done}"));
        copy(&before, &cut);
        for name in writes.iter().take(done) {
            let bytes = fs::read(after.join(name)).unwrap_or_default();
            fs::write(cut.join(name), bytes).unwrap();
        }
        for name in removals.iter().take(done.saturating_sub(writes.len())) {
            fs::remove_file(cut.join(name)).unwrap();
        }
        let authority = load(&cut).unwrap();
        let (phase, expected) = if done < 4 { (Phase::Prepared, &old) } else { (Phase::Issuing, &new) };
        assert_eq!((authority.phase(), authority.trust_pem()), (phase, expected.trust_pem()), "after {done}");

        // A start goes on, and the whole change comes to its end.
        let pki = open(&cut);
        assert_eq!(pki.authority().generation(), authority.generation(), "after {done}");
        if phase == Phase::Prepared {
            pki.rotate(Step::Issue, LIFE, now).unwrap();
        }
        pki.rotate(Step::Retire, LIFE, now).unwrap();
        let present = pki.authority();
        assert_eq!((present.phase(), present.trust_pem().as_str()), (Phase::Steady, new.certificate_pem()));
        pki.rotate(Step::Prepare, LIFE, now).unwrap();
        assert_eq!(certificates(&pki.authority().trust_pem()), 2, "after {done}");
    }
}

/// One that cannot issue would leave the cluster without certificates.
#[test]
fn a_next_ca_that_is_no_ca_or_ends_soon_does_not_issue() {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, SanType, date_time_ymd};
    let state = tempfile::tempdir().unwrap();
    let (pki, now) = (open(state.path()), SystemTime::now());
    let before = pki.authority();
    let put = |is_ca: IsCa, bend: fn(&mut CertificateParams)| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = vec![SanType::URI("spiffe://loden".try_into().unwrap())];
        params.is_ca = is_ca;
        bend(&mut params);
        let key = KeyPair::generate().unwrap();
        fs::create_dir_all(state.path().join(NEXT)).unwrap();
        fs::write(state.path().join("next/ca.key"), key.serialize_pem()).unwrap();
        fs::write(state.path().join("next/ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        pki.refresh(now)
    };
    let refused = put(IsCa::NoCa, |_| ()).unwrap_err().to_string();
    assert!(refused.ends_with("is no CA's certificate (basicConstraints CA:TRUE)"), "{refused}");
    assert_eq!(
        open(state.path()).authority().generation(),
        before.generation(),
        "a start serves all the same"
    );
    for bend in
        [(|params| params.not_after = date_time_ymd(2001, 1, 1)) as fn(&mut CertificateParams), |params| {
            params.not_before = date_time_ymd(3001, 1, 1)
        }]
    {
        put(IsCa::Ca(BasicConstraints::Unconstrained), bend).unwrap();
        let refused = pki.rotate(Step::Issue, LIFE, now).unwrap_err().to_string();
        assert!(
            refused.contains("is not good from now on for longer than certificates live, 1h"),
            "{refused}"
        );
        assert_eq!(pki.authority().certificate_pem(), before.certificate_pem());
    }
    fs::remove_dir_all(state.path().join(NEXT)).unwrap();
    pki.refresh(now).unwrap();
    assert_eq!(pki.authority().phase(), Phase::Steady, "whoever takes it away again has undone it");
}

#[test]
fn a_ca_that_somebody_has_put_there_is_taken_up() {
    let state = tempfile::tempdir().unwrap();
    let (own, other) = (state.path().join("own"), state.path().join("other"));
    let (pki, theirs) = (open(&own), open(&other));
    pki.refresh(SystemTime::now()).unwrap();
    let before = pki.authority();
    fs::copy(own.join(CA_CERTIFICATE), own.join(PREVIOUS)).unwrap();
    fs::copy(other.join(CA_CERTIFICATE), own.join(CA_CERTIFICATE)).unwrap();
    let error = pki.refresh(SystemTime::now()).unwrap_err().to_string();
    assert!(error.contains("does not belong to the key"), "half of it: {error}");
    assert_eq!(pki.authority().generation(), before.generation(), "what was there stays");
    fs::copy(other.join(CA_KEY), own.join(CA_KEY)).unwrap();
    pki.refresh(SystemTime::now()).unwrap();
    let found = pki.authority();
    assert_eq!(found.certificate_pem(), theirs.authority().certificate_pem());
    assert_eq!((found.phase(), certificates(&found.trust_pem())), (Phase::Issuing, 2));
    assert_eq!(admin_trusts(&own), found.trust_pem());
}

/// With the key of before, which certifies it: nodes that are away for all of it still believe it.
#[test]
fn a_ca_from_elsewhere_is_the_next_one() {
    let state = tempfile::tempdir().unwrap();
    let (own, other) = (state.path().join("own"), state.path().join("other"));
    let (pki, theirs, now) = (open(&own), open(&other), SystemTime::now());
    fs::create_dir(own.join(NEXT)).unwrap();
    fs::write(own.join(NEXT).join(CA_CERTIFICATE), "-----BEGIN CERT").unwrap();
    let error = pki.refresh(now).unwrap_err().to_string();
    assert!(error.ends_with("next/ca.crt: is no CA's certificate with the URI spiffe://loden"), "{error}");
    for name in [CA_KEY, CA_CERTIFICATE] {
        fs::copy(other.join(name), own.join(NEXT).join(name)).unwrap();
    }
    pki.refresh(now).unwrap();
    assert_eq!(pki.authority().phase(), Phase::Prepared);
    pki.rotate(Step::Issue, LIFE, now).unwrap();
    let found = pki.authority();
    assert_eq!(found.certificate_pem(), theirs.authority().certificate_pem());
    let role = Role::ControlPlane("one".parse().unwrap());
    let server = found.issue(role, &[], 0, LIFE, now).unwrap();
    assert_eq!(certificates(server.certificate_pem()), 2, "with what leads to the CA of before");
    assert_eq!(admin_trusts(&own), found.trust_pem());
}

/// A crash after a step and before the admin's bundle.
#[test]
fn a_start_makes_the_first_admin_trust_what_is_trusted() {
    let state = tempfile::tempdir().unwrap();
    let pki = open(state.path());
    let before = state.path().join("before");
    copy(&state.path().join("admin"), &before);
    pki.rotate(Step::Prepare, LIFE, SystemTime::now()).unwrap();
    fs::remove_dir_all(state.path().join("admin")).unwrap();
    copy(&before, &state.path().join("admin"));
    let trusted = pki.authority().trust_pem();
    assert_ne!(admin_trusts(state.path()), trusted);
    drop((pki, open(state.path())));
    assert_eq!(admin_trusts(state.path()), trusted);
}

fn admin_trusts(directory: &Path) -> String {
    loden_transport::Bundle::read(&directory.join("admin")).unwrap().ca_pem().to_owned()
}

/// Those who look meanwhile change nothing.
#[test]
fn a_ca_is_changed_while_many_look() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let state = tempfile::tempdir().unwrap();
    let pki = open(state.path());
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    pki.refresh(SystemTime::now()).unwrap();
                    // Without a lock: it may come between two files.
                    drop(load(state.path()));
                }
            });
        }
        for _ in 0..10 {
            for step in [Step::Prepare, Step::Issue, Step::Retire] {
                pki.rotate(step, LIFE, SystemTime::now()).unwrap();
                assert_eq!(load(state.path()).unwrap().generation(), pki.authority().generation());
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let names: Vec<_> = fs::read_dir(state.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().ends_with(".new")), "{names:?}");
}
