//! A small disk that can be filled: a tmpfs that only processes inside see, and that is gone with them.

use crate::client::PATIENCE;
use crate::server::{POLL, Process};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Instant;
use tempfile::TempDir;

/// A folder that is a small disk for whoever is inside.
pub struct SmallDisk {
    /// Keeps it, as long as nobody else is inside.
    keeper: Process,
    folder: PathBuf,
    /// Of the keeper's log.
    _logs: TempDir,
}

impl SmallDisk {
    /// Puts a disk of so many KiB in the place of a folder.
    ///
    /// # Panics
    /// If the system lets nobody mount anything, not even in a namespace of its own.
    pub fn mount(folder: &Path, size: u32) -> SmallDisk {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c"]);
        let mount = format!("mount -t tmpfs -o size={size}k none \"$1\"");
        command.arg(format!("{mount} && exec setpriv --pdeathsig KILL sleep infinity"));
        command.arg("sh").arg(folder);
        let logs = tempfile::tempdir().expect("a temporary folder");
        let log = logs.path().join("log");
        let keeper = Process::start(command, &log);
        let mut disk = SmallDisk { keeper, folder: folder.to_owned(), _logs: logs };
        let outside = fs::metadata(folder).expect("a folder").dev();
        let begun = Instant::now();
        while fs::metadata(disk.seen_from_outside()).is_ok_and(|inside| inside.dev() == outside) {
            let failed = disk.keeper.ended().is_some() || begun.elapsed() > PATIENCE;
            assert!(!failed, "no disk: {}", fs::read_to_string(&log).unwrap_or_default());
            sleep(POLL);
        }
        disk
    }

    /// What stands before a command that is to run inside.
    pub fn enter(&self) -> Vec<String> {
        let words = "nsenter --preserve-credentials --user --mount --target";
        words.split(' ').map(str::to_owned).chain([self.keeper.id().to_string()]).collect()
    }

    /// Fills it to the last octet.
    pub fn fill(&self) {
        let mut filler =
            File::create(self.seen_from_outside().join("filler")).expect("room for a file's name");
        for size in [4096, 1] {
            let full = loop {
                match filler.write_all(&vec![b'x'; size]) {
                    Ok(()) => {}
                    Err(error) => break error,
                }
            };
            assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
        }
    }

    /// Makes room again.
    pub fn empty(&self) {
        fs::remove_file(self.seen_from_outside().join("filler")).expect("the file that has filled it");
    }

    fn seen_from_outside(&self) -> PathBuf {
        let inside = self.folder.strip_prefix("/").expect("an absolute path");
        Path::new("/proc").join(self.keeper.id().to_string()).join("root").join(inside)
    }
}
