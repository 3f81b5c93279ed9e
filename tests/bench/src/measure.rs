//! What the kernel knows of a process.

use rustix::thread::{CpuSet, sched_setaffinity};
use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// CPU time that a process has used, to the nanosecond.
pub fn cpu_time(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let nanoseconds = threads.filter_map(|thread| {
        let times = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        times.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// Octets of memory that belong to this process alone: what it shares with its file or with others is not counted.
pub fn private_bytes(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    rollup.lines().filter(|line| line.starts_with("Private_")).filter_map(kilobytes).sum()
}

/// Octets of memory that are resident, shared ones too.
pub fn resident_bytes(pid: u32) -> u64 {
    status(pid, "VmRSS:")
}

/// The most that were resident since [`forget_peak`].
pub fn peak_bytes(pid: u32) -> u64 {
    status(pid, "VmHWM:")
}

/// The peak is what is resident now.
pub fn forget_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("a process of this user's");
}

fn status(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().filter(|line| line.starts_with(name)).filter_map(kilobytes).sum()
}

fn kilobytes(line: &str) -> Option<u64> {
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|n| n * 1024)
}

/// All threads of this process run there from now on.
pub fn move_to(cpu: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    for thread in fs::read_dir("/proc/self/task").expect("Linux").flatten() {
        let id = thread.file_name().to_str().and_then(|name| name.parse().ok());
        let id = id.and_then(rustix::thread::Pid::from_raw);
        sched_setaffinity(id, &cpus).expect("two CPUs");
    }
}

/// Counts a process's system calls.
pub struct Strace(Child);

impl Strace {
    /// Begins; they are counted when this returns.
    pub fn attach(pid: u32) -> Strace {
        let child = Command::new("strace")
            .args(["-f", "-c", "-U", "calls,name", "-p", &pid.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace");
        let traced = || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
        };
        while !traced() {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Its other threads too.
        std::thread::sleep(Duration::from_millis(100));
        Strace(child)
    }

    /// How many there were.
    pub fn count(self) -> u64 {
        let summary = self.summary();
        let total = summary.lines().find(|line| line.trim_end().ends_with("total"));
        total.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
    }

    /// How many of each there were.
    pub fn summary(mut self) -> String {
        let id = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(id, rustix::process::Signal::INT);
        let mut summary = String::new();
        self.0.stderr.take().expect("piped").read_to_string(&mut summary).expect("text");
        let _ = self.0.wait();
        summary
    }
}
