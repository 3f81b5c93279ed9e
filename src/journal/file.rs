//! The journal's files: one for each process, locked while it lives. Whoever gets the lock of another one's file knows
//! that its process is dead.

use super::entry::{EXPIRY, Entry, SHOWN};
use prometheus::Histogram;
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// The largest file. At one octet more, writing fails as on a full disk; and a larger one is no journal.
const LARGEST_FILE: usize = 64 * 1024 * 1024;
/// What of a file is kept in memory.
const CACHE: usize = 1024 * 1024;

const MOVES: TableDefinition<u64, &[u8]> = TableDefinition::new("moves");

/// Why a file is of no more use.
#[derive(Debug)]
pub struct Failure {
    /// It does not hold what was written there. Otherwise the disk is at fault: it is full, for one.
    pub damaged: bool,
    /// In one line.
    pub reason: String,
}

/// redb's work on a file. If that is damaged, redb can panic.
fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, Failure> {
    let (damaged, reason) = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(error @ (redb::Error::Io(_) | redb::Error::PreviousIo))) => (false, error.to_string()),
        Ok(Err(error)) => (true, error.to_string()),
        Err(_) => (true, "redb panicked".to_string()),
    };
    // It can quote the file.
    Err(Failure { damaged, reason: reason.escape_debug().take(SHOWN).collect() })
}

fn open(storage: impl StorageBackend) -> Result<Database, redb::DatabaseError> {
    Database::builder().set_cache_size(CACHE).create_with_backend(storage)
}

/// The file of this process.
pub struct OwnFile {
    database: Database,
    file: Arc<File>,
    path: PathBuf,
}

impl OwnFile {
    /// A new file with these entries, on disk. It has its name only when it is locked and whole.
    pub fn create(
        folder: &Path,
        upstream: &str,
        syncs: Histogram,
        entries: impl Iterator<Item = (u64, Vec<u8>)>,
    ) -> Result<OwnFile, Failure> {
        let random = RandomState::new().hash_one(());
        let path = folder.join(format!("{upstream}.{random:016x}.journal"));
        let unfinished = path.with_extension("new");
        let made = guarded(|| {
            let file =
                OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&unfinished)?;
            file.lock()?;
            let file = Arc::new(file);
            let database = open(Disk { file: file.clone(), syncs })?;
            let own = OwnFile { database, file, path: path.clone() };
            own.write(entries.map(|(id, entry)| (id, Some(entry))))?;
            fs::rename(&unfinished, &own.path)?;
            File::open(folder)?.sync_all()?;
            Ok(own)
        });
        if made.is_err() {
            let _ = [unfinished, path].map(fs::remove_file);
        }
        made
    }

    /// Writes entries, or their ends, in one transaction with one fdatasync.
    pub fn commit(&self, changes: impl Iterator<Item = (u64, Option<Vec<u8>>)>) -> Result<(), Failure> {
        guarded(|| self.write(changes))
    }

    fn write(&self, changes: impl Iterator<Item = (u64, Option<Vec<u8>>)>) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        let mut moves = transaction.open_table(MOVES)?;
        for (id, entry) in changes {
            match entry {
                Some(entry) => moves.insert(id, &entry[..])?,
                None => moves.remove(id)?,
            };
        }
        drop(moves);
        Ok(transaction.commit()?)
    }

    /// Whether somebody has removed it.
    pub fn is_gone(&self) -> bool {
        !is_at(&self.file, &self.path)
    }

    /// Closes and removes it.
    pub fn remove(self) {
        let _ = fs::remove_file(&self.path);
        self.close();
    }

    /// Closes and keeps it, under a name that nobody reads again.
    pub fn set_aside(self) {
        set_aside(&self.path);
        self.close();
    }

    /// Closes and keeps it, for another process.
    pub fn close(self) {
        let OwnFile { database, .. } = self;
        let _ = guarded(|| {
            drop(database);
            Ok(())
        });
    }
}

/// A file whose process is dead: its lock was to be had.
pub struct DeadFile {
    file: File,
    path: PathBuf,
}

impl DeadFile {
    /// The journals of an upstream in a folder, those of living processes too. On the way, removes what a process
    /// left that died while it made its file.
    pub fn candidates(folder: &Path, upstream: &str) -> io::Result<Vec<PathBuf>> {
        let mut journals = Vec::new();
        for item in fs::read_dir(folder)? {
            let item = item?;
            let name = item.file_name();
            let rest = name.to_str().and_then(|name| name.strip_prefix(upstream)?.strip_prefix('.'));
            match rest.and_then(|rest| rest.split_once('.')) {
                Some((_, "journal")) if item.file_type()?.is_file() => journals.push(item.path()),
                Some((_, "new")) => remove_if_old(&item.path()),
                _ => {}
            }
        }
        Ok(journals)
    }

    /// None if its process lives, or if another one was faster.
    pub fn lock(path: PathBuf) -> io::Result<Option<DeadFile>> {
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(is_at(&file, &path).then_some(DeadFile { file, path })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Its entries; none in the place of one that is not as it was written. The file itself is only read: redb, which
    /// repairs what a killed process left, works on a copy in memory.
    pub fn entries(&self) -> Result<Vec<Option<Entry>>, Failure> {
        guarded(|| {
            let mut octets = Vec::new();
            (&self.file).take(LARGEST_FILE as u64 + 1).read_to_end(&mut octets)?;
            let mut database = open(Memory(Mutex::new(octets)))?;
            if !database.check_integrity()? {
                return Err(redb::Error::Corrupted(
                    "it needed more than the repair after a kill".to_string(),
                ));
            }
            let moves = database.begin_read()?.open_table(MOVES)?;
            moves.iter()?.map(|entry| Ok(Entry::decode(entry?.1.value()))).collect()
        })
    }

    /// Removes it: its entries are elsewhere.
    pub fn remove(self) {
        let _ = fs::remove_file(&self.path);
    }

    /// Keeps it, under a name that nobody reads again.
    pub fn set_aside(self) {
        set_aside(&self.path);
    }
}

/// Whether the file is still the one of that name.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |of: fs::Metadata| (of.dev(), of.ino());
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(file), Ok(there)) => identity(file) == identity(there),
        _ => false,
    }
}

fn set_aside(path: &Path) {
    let _ = fs::rename(path, path.with_extension("damaged"));
}

fn remove_if_old(path: &Path) {
    let modified = fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
    if modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > EXPIRY)) {
        let _ = fs::remove_file(path);
    }
}

/// The file under a database, never larger than [`LARGEST_FILE`].
#[derive(Debug)]
struct Disk {
    file: Arc<File>,
    /// How long each fdatasync took.
    syncs: Histogram,
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        bounded(len)?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let begun = Instant::now();
        let synced = self.file.sync_data();
        self.syncs.observe(begun.elapsed().as_secs_f64());
        synced
    }

    fn write(&self, offset: u64, octets: &[u8]) -> io::Result<()> {
        self.file.write_all_at(octets, offset)
    }
}

/// A copy of a file. redb's own does not bound the length that a damaged file can ask for.
#[derive(Debug)]
struct Memory(Mutex<Vec<u8>>);

impl Memory {
    /// Works on a range of it, if that is there.
    fn at(&self, offset: u64, len: usize, work: impl FnOnce(&mut [u8])) -> io::Result<()> {
        let mut octets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = usize::try_from(offset).ok();
        let range = start.and_then(|start| octets.get_mut(start..start.checked_add(len)?));
        range.map(work).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl StorageBackend for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.at(offset, out.len(), |octets| out.copy_from_slice(octets))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).resize(bounded(len)?, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, octets: &[u8]) -> io::Result<()> {
        self.at(offset, octets.len(), |there| there.copy_from_slice(octets))
    }
}

fn bounded(len: u64) -> io::Result<usize> {
    let len = usize::try_from(len).ok().filter(|len| *len <= LARGEST_FILE);
    len.ok_or_else(|| io::ErrorKind::FileTooLarge.into())
}
