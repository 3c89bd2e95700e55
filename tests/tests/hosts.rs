//! The machine room itself: hosts reach each other, losses are counted, nothing stays behind.

#![cfg(test)]

use std::{
    fs, io,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use loden_tests::{
    hosts::{Fabric, Host, Lab, cidr, ip},
    traffic::{Amount, Capture, Direction, Fate, Ping, Transfer},
    wait,
};

const SOON: Duration = Duration::from_secs(10);

async fn host(lab: &Lab, fabric: &Fabric, name: &str, v4: &str, v6: &str) -> Host {
    let builder = lab.host(name).on(fabric).address(cidr(v4)).address(cidr(v6));
    builder.build().await.unwrap()
}

async fn two_hosts(lab: &Lab) -> (Fabric, Host, Host) {
    let fabric = lab.fabric("lan").await.unwrap();
    let a = host(lab, &fabric, "a", "192.0.2.1/24", "2001:db8::1/64").await;
    let b = host(lab, &fabric, "b", "192.0.2.2/24", "2001:db8::2/64").await;
    (fabric, a, b)
}

fn namespaces_of(id: &str) -> Vec<String> {
    let entries = match fs::read_dir("/run/netns") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        other => other.unwrap(),
    };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains(id)).collect()
}

fn is_running(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn sleeper() -> Command {
    let mut command = Command::new("sleep");
    command.arg("600");
    command
}

#[tokio::test]
async fn two_hosts_reach_each_other_in_both_families() {
    let lab = Lab::new("reach").unwrap();
    let (_fabric, a, _b) = two_hosts(&lab).await;
    for target in [ip("192.0.2.2"), ip("2001:db8::2")] {
        let ping = Ping::to(target).start(&a).unwrap();
        ping.reach(SOON).await.unwrap();
        let report = ping.stop().await.unwrap();
        assert_eq!((report.lost(), report.duplicates), (0, 0), "{target}: {report}");
        assert!(report.quantile(0.5).unwrap() > Duration::ZERO);
    }
}

#[tokio::test]
async fn a_ping_counts_what_is_lost_while_the_cable_is_out() {
    let lab = Lab::new("cable").unwrap();
    let (fabric, a, b) = two_hosts(&lab).await;
    let ping = Ping::to(ip("192.0.2.2")).linger(Duration::from_millis(200)).start(&a).unwrap();
    ping.reach(SOON).await.unwrap();
    ping.mark("out");
    fabric.unplug(&b, "eth0").await.unwrap();
    let outage = ping.reach(Duration::from_millis(300)).await;
    assert!(outage.is_err(), "answered through a cable that is out: {outage:?}");
    fabric.replug(&b, "eth0").await.unwrap();
    ping.reach(SOON).await.unwrap();
    let report = ping.stop().await.unwrap();
    assert!(report.received() > 0, "{report}");
    assert!(report.lost() >= 50, "300 ms at 5 ms are 60 requests: {report}");
    assert!(report.longest_outage() >= Duration::from_millis(250), "{report}");
    let out = report.mark("out").unwrap();
    assert_eq!(report.lost_between(Duration::ZERO, out), 0, "{report}");
}

#[tokio::test]
async fn a_request_that_the_kernel_refuses_says_why() {
    let lab = Lab::new("refused").unwrap();
    let (_fabric, a, _b) = two_hosts(&lab).await;
    let ping = Ping::to(ip("198.51.100.1")).linger(Duration::ZERO).start(&a).unwrap();
    ping.reach(Duration::from_millis(50)).await.unwrap_err();
    let report = ping.stop().await.unwrap();
    assert!(report.sent() > 0);
    assert!(report.timeline.iter().all(|echo| echo.fate == Fate::Refused(libc::ENETUNREACH)), "{report}");
}

#[tokio::test]
async fn containers_reach_each_other_through_their_hosts_routes() {
    let lab = Lab::new("containers").unwrap();
    let (_fabric, a, b) = two_hosts(&lab).await;
    a.bridge("cni0", cidr("10.0.1.1/24"), 1450).await.unwrap();
    b.bridge("cni0", cidr("10.0.2.1/24"), 1450).await.unwrap();
    a.add_route(cidr("10.0.2.0/24"), ip("192.0.2.2")).await.unwrap();
    b.add_route(cidr("10.0.1.0/24"), ip("192.0.2.1")).await.unwrap();
    let one = a.container("one", "cni0", cidr("10.0.1.2/24"), ip("10.0.1.1")).await.unwrap();
    let two = b.container("two", "cni0", cidr("10.0.2.2/24"), ip("10.0.2.1")).await.unwrap();
    assert_eq!(one.link_mtu("eth0").await.unwrap(), 1450);

    let amount = Amount::Bytes(10_000_000);
    let throughput = Transfer::to(two.address()).streams(2).amount(amount).run(&one, &two).await;
    assert_eq!(throughput.unwrap().bytes, 20_000_000);

    let ping = Ping::to(two.address()).linger(Duration::ZERO).start(&one).unwrap();
    ping.reach(SOON).await.unwrap();
    b.remove_route(cidr("10.0.1.0/24"), ip("192.0.2.1")).await.unwrap();
    ping.reach(Duration::from_millis(200)).await.unwrap_err();
    b.add_route(cidr("10.0.1.0/24"), ip("192.0.2.1")).await.unwrap();
    ping.reach(SOON).await.unwrap();
    two.remove().await.unwrap();
    ping.reach(Duration::from_millis(200)).await.unwrap_err();
}

#[tokio::test]
async fn a_transfer_is_looked_at_while_it_runs_and_stopped() {
    let lab = Lab::new("transfer").unwrap();
    let (_fabric, a, b) = two_hosts(&lab).await;
    let transfer = Transfer::to(ip("192.0.2.2")).streams(2).amount(Amount::Endless).pinned();
    let running = transfer.start(&a, &b).await.unwrap();
    assert_eq!(running.threads().len(), 4, "a sender and a receiver each");
    let arrived = wait::until("some bytes to arrive", SOON, async || match running.arrived() {
        0 => Err("none"),
        bytes => Ok(bytes),
    });
    let arrived = arrived.await.unwrap();
    let whole = tokio::time::timeout(SOON, running.stop()).await.unwrap().unwrap();
    assert!(whole.bytes >= arrived, "{whole} of {arrived} bytes");
}

#[tokio::test]
async fn an_address_can_be_taken_away_and_given_back() {
    let lab = Lab::new("address").unwrap();
    let (_fabric, a, b) = two_hosts(&lab).await;
    let ping = Ping::to(ip("192.0.2.2")).linger(Duration::ZERO).start(&a).unwrap();
    ping.reach(SOON).await.unwrap();
    b.remove_address("eth0", cidr("192.0.2.2/24")).await.unwrap();
    ping.reach(Duration::from_millis(200)).await.unwrap_err();
    b.add_address("eth0", cidr("192.0.2.2/24")).await.unwrap();
    ping.reach(SOON).await.unwrap();
}

#[tokio::test]
async fn a_capture_sees_the_frames_of_one_link_in_both_directions() {
    let lab = Lab::new("capture").unwrap();
    let (_fabric, a, b) = two_hosts(&lab).await;
    let icmp = |frame: &[u8]| {
        let headers = etherparse::PacketHeaders::from_ethernet_slice(frame);
        headers.is_ok_and(|headers| matches!(headers.transport, Some(etherparse::TransportHeader::Icmpv4(_))))
    };
    let capture = Capture::start(&b, "eth0", icmp).await.unwrap();
    let other = Capture::start(&b, "lo", icmp).await.unwrap();
    let ping = Ping::to(ip("192.0.2.2")).start(&a).unwrap();
    let frames = capture.wait(10, SOON).await.unwrap();
    let report = ping.stop().await.unwrap();
    assert_eq!(report.lost(), 0, "{report}");
    for direction in [Direction::In, Direction::Out] {
        assert!(frames.iter().any(|frame| frame.direction == direction), "none went {direction:?}");
    }
    assert_eq!(capture.stop().unwrap().len(), 2 * report.sent());
    assert_eq!(other.stop().unwrap().len(), 0);
}

#[tokio::test]
async fn a_process_runs_inside_its_host_and_its_output_is_awaited() {
    let lab = Lab::new("process").unwrap();
    let (_fabric, a, _b) = two_hosts(&lab).await;
    let mut command = Command::new("sh");
    command.args(["-c", "readlink /proc/self/ns/net; echo ready; exit 3"]);
    let process = a.spawn("shell", command).unwrap();
    process.wait_for_log("ready", SOON).await.unwrap();
    assert_eq!(process.wait_exit(SOON).await.unwrap().code(), Some(3));
    let inside = a.enter(|| fs::read_link("/proc/thread-self/ns/net").unwrap());
    let first = process.log().text().unwrap();
    assert_eq!(first.lines().next(), inside.to_str());
}

#[tokio::test]
async fn a_process_that_ends_without_the_awaited_line_shows_its_log() {
    let lab = Lab::new("ends").unwrap();
    let host = lab.host("a").build().await.unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "echo port 7443 is taken >&2; exit 1"]);
    let process = host.spawn("server", command).unwrap();
    let error = process.wait_for_log("ready", SOON).await.unwrap_err();
    let shown = format!("{error:?}");
    assert!(shown.contains("exit status: 1") && shown.contains("port 7443 is taken"), "{shown}");
}

#[tokio::test]
async fn a_program_that_does_not_exist_is_named() {
    let lab = Lab::new("absent").unwrap();
    let host = lab.host("a").build().await.unwrap();
    let error = host.spawn("server", Command::new("/nowhere/loden")).unwrap_err();
    assert!(error.to_string().contains("/nowhere/loden"), "{error}");
}

#[tokio::test]
async fn a_second_process_of_a_name_has_its_own_log() {
    let lab = Lab::new("second").unwrap();
    let host = lab.host("a").build().await.unwrap();
    let say = |word: &str| {
        let mut command = Command::new("echo");
        command.arg(word);
        command
    };
    host.spawn("agent", say("first")).unwrap().wait_exit(SOON).await.unwrap();
    let second = host.spawn("agent", say("second")).unwrap();
    second.wait_exit(SOON).await.unwrap();
    assert_eq!(second.log().text().unwrap(), "second\n");
}

#[tokio::test]
async fn a_killed_process_takes_its_children_with_it() {
    let lab = Lab::new("children").unwrap();
    let host = lab.host("a").build().await.unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 600 & echo child $!; wait"]);
    let process = host.spawn("parent", command).unwrap();
    let line = process.wait_for_log("child", SOON).await.unwrap();
    let child: u32 = line.rsplit_once(' ').unwrap().1.parse().unwrap();
    assert!(is_running(child));
    process.kill9().await.unwrap();
    let gone = async || {
        if is_running(child) { Err("it still runs") } else { Ok(()) }
    };
    wait::until("the child to end", SOON, gone).await.unwrap();
}

#[tokio::test]
async fn nothing_is_left_after_a_lab_is_dropped() {
    let lab = Lab::new("dropped").unwrap();
    let (_fabric, a, _b) = two_hosts(&lab).await;
    let process = a.spawn("sleep", sleeper()).unwrap();
    let (id, directory) = (lab.id().to_owned(), lab.directory().to_owned());
    assert_eq!(namespaces_of(&id).len(), 3);
    assert!(directory.exists() && Path::new("/run/loden-lab").join(&id).exists());
    drop(lab);
    assert_eq!(namespaces_of(&id), [] as [String; 0]);
    assert!(!directory.exists() && !Path::new("/run/loden-lab").join(&id).exists());
    let status = process.wait_exit(SOON).await.unwrap();
    assert!(!status.success(), "the lab kills what its owner still holds: {status}");
}

#[tokio::test]
async fn nothing_is_left_after_a_panic() {
    let (tell, told) = tokio::sync::oneshot::channel();
    let panics = tokio::spawn(async {
        let lab = Lab::new("panics").unwrap();
        let (_fabric, a, _b) = two_hosts(&lab).await;
        let process = a.spawn("sleep", sleeper()).unwrap();
        tell.send((lab.id().to_owned(), process.pid())).unwrap();
        panic!("on purpose: the test is about what is left");
    });
    assert!(panics.await.unwrap_err().is_panic());
    let (id, pid) = told.await.unwrap();
    assert_eq!(namespaces_of(&id), [] as [String; 0]);
    assert!(!Path::new("/run/loden-lab").join(&id).exists());
    assert!(!is_running(pid));
}

/// The test runs itself once more as the process that holds a lab and is killed.
#[tokio::test]
async fn a_sweep_removes_the_lab_of_a_killed_process_and_no_other() {
    const HOLDER: &str = "LODEN_TEST_HOLDS_A_LAB";
    const NAME: &str = "a_sweep_removes_the_lab_of_a_killed_process_and_no_other";
    if std::env::var_os(HOLDER).is_some() {
        let lab = Lab::new("held").unwrap();
        let (_fabric, a, _b) = two_hosts(&lab).await;
        let process = a.spawn("sleep", sleeper()).unwrap();
        println!("held {} {}", lab.id(), process.pid());
        std::future::pending::<()>().await;
    }
    let mine = Lab::new("mine").unwrap();
    let (_fabric, _a, _b) = two_hosts(&mine).await;
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args([NAME, "--exact", "--nocapture"])
        .env(HOLDER, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(holder.stdout.take().unwrap()).lines().map(Result::unwrap);
    let held = lines.filter_map(|line| line.split_once("held ").map(|(_, held)| held.to_owned())).next();
    let held = held.expect("the holder says what it holds");
    let (id, pid) = held.split_once(' ').unwrap();
    let pid: u32 = pid.parse().unwrap();

    Lab::sweep().unwrap();
    assert_eq!(namespaces_of(id).len(), 3, "its owner is alive");
    assert!(is_running(pid));
    holder.kill().unwrap();
    holder.wait().unwrap();
    // Another test of this run may sweep first; what counts is what is left.
    Lab::sweep().unwrap();
    assert_eq!(namespaces_of(id), [] as [String; 0]);
    assert!(!Path::new("/run/loden-lab").join(id).exists());
    let gone = async || {
        if is_running(pid) { Err("it still runs") } else { Ok(()) }
    };
    wait::until("the held process to end", SOON, gone).await.unwrap();
    assert_eq!(namespaces_of(mine.id()).len(), 3, "a live lab is left alone");
}
