//! CPU time and memory, of the machine, of one process and of a flow.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::unistd::Pid;

/// Where the machine's CPU time stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct MachineTime {
    busy: Duration,
    at: Instant,
}

impl MachineTime {
    pub(super) fn now() -> anyhow::Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("could not read /proc/stat")?;
        let busy = busy_ticks(&text).context("/proc/stat has no line of all processors")?;
        Ok(Self { busy: ticks(busy), at: Instant::now() })
    }

    /// How many processors were busy since then.
    pub(super) fn load(self) -> anyhow::Result<f64> {
        let spent = Self::now()?.busy.saturating_sub(self.busy);
        Ok(spent.as_secs_f64() / self.at.elapsed().as_secs_f64())
    }
}

/// Where the CPU time of a flow stands: of its threads, in which the kernel carries packets to the far end, and
/// of the kernel's threads that take over when a processor has too many of them. Neighbours on the machine
/// are not in it, but for the packets that they send.
pub(super) struct FlowTime {
    files: Vec<PathBuf>,
}

impl FlowTime {
    /// Of these threads of this process.
    pub(super) fn of(threads: &[Pid]) -> anyhow::Result<Self> {
        let mut files: Vec<PathBuf> =
            threads.iter().map(|thread| format!("/proc/self/task/{thread}/schedstat").into()).collect();
        for entry in fs::read_dir("/proc").context("could not list /proc")? {
            let process = entry.context("could not list /proc")?.path();
            // Others end meanwhile.
            let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
            if name.starts_with("ksoftirqd/") {
                files.push(process.join("schedstat"));
            }
        }
        Ok(Self { files })
    }

    /// CPU time spent so far, while the threads run.
    pub(super) fn spent(&self) -> anyhow::Result<Duration> {
        let spent = self.files.iter().map(|path| {
            let text =
                fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
            let nanoseconds = text.split_ascii_whitespace().next().and_then(|field| field.parse().ok());
            let nanoseconds = nanoseconds.with_context(|| format!("{} holds {text:?}", path.display()))?;
            Ok(Duration::from_nanos(nanoseconds))
        });
        spent.sum()
    }
}

/// `cpu  user nice system idle iowait irq softirq steal guest guest_nice` (proc(5)); guest time
/// is part of user time.
fn busy_ticks(stat: &str) -> Option<u64> {
    let fields = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = fields.split_ascii_whitespace().map_while(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = fields[..] else { return None };
    Some(user + nice + system + irq + softirq)
}

/// CPU time that a process has spent, by the kernel's 10 ms ticks.
pub(super) fn process_time(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
    let spent = process_ticks(&text).with_context(|| format!("{path} is cut short"))?;
    Ok(ticks(spent))
}

/// Fields 14 and 15, user and system time; the name in field 2 may have spaces in it.
fn process_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

/// Memory of a process that is in RAM, in KiB.
pub(super) fn resident_kib(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
    let value = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB"));
    let value = value.and_then(|value| value.trim().parse().ok());
    value.with_context(|| format!("{path} has no VmRSS"))
}

fn ticks(count: u64) -> Duration {
    // USER_HZ is 100 on every architecture that Linux has kept.
    Duration::from_millis(count * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_not_busy() {
        let stat = "cpu  10 1 20 1000 500 3 4 7 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(busy_ticks(stat), Some(38));
        assert_eq!(busy_ticks("intr 1\n"), None);
    }

    #[test]
    fn a_processs_name_does_not_shift_its_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4 11 0 0 0 120 30 0 0 20 0 1 0";
        assert_eq!(process_ticks(stat), Some(150));
    }

    #[test]
    fn a_threads_work_is_in_its_flows_time() {
        let (flow, kernel) = (FlowTime::of(&[nix::unistd::gettid()]).unwrap(), FlowTime::of(&[]).unwrap());
        let begin = Instant::now();
        // A thread's time is brought up to date by the next tick.
        while flow.spent().unwrap() <= kernel.spent().unwrap() {
            assert!(begin.elapsed() < Duration::from_secs(10), "the thread's own time is missing");
        }
    }

    #[test]
    fn this_process_has_memory_and_time() {
        let pid = std::process::id();
        assert!(resident_kib(pid).unwrap() > 100.0);
        process_time(pid).unwrap();
    }
}
