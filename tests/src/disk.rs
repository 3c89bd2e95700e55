//! Disks that fill up or lose their power.
//!
//! ```text
//!  mount namespace of the calling thread
//!    DIR         tmpfs (the "hardware": gone with the thread, whatever ends it)
//!    DIR/image   ext4, mounted by a loop device on
//!    DIR/files   what the test uses
//! ```
//!
//! Only the thread that made a disk, and what it starts, can see it: tests on many threads, and several
//! checkouts on one machine, do not meet.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use tempfile::TempDir;

/// Goes down without writing the journal: what a power cut leaves (`EXT4_GOING_FLAGS_NOLOGFLUSH`).
const NO_LOG_FLUSH: u32 = 2;

mod ioctl {
    // EXT4_IOC_SHUTDOWN: declared as a read by the kernel, which takes the flags from it.
    nix::ioctl_read!(ext4_shutdown, b'X', 125, u32);
}

/// A file system of its own, seen by this thread and its children. Needs root.
#[derive(Debug)]
pub struct Disk {
    dir: TempDir,
    image: Option<PathBuf>,
}

impl Disk {
    /// A disk in memory that is full after `bytes`.
    pub fn small(bytes: u64) -> io::Result<Self> {
        let disk = Self { dir: private_dir()?, image: None };
        mount_tmpfs(disk.dir.path(), bytes)?;
        fs::create_dir(disk.path())?;
        Ok(disk)
    }

    /// An ext4 disk of `bytes`, whose power can be cut.
    pub fn ext4(bytes: u64) -> io::Result<Self> {
        let dir = private_dir()?;
        let image = dir.path().join("image");
        let disk = Self { dir, image: Some(image.clone()) };
        mount_tmpfs(disk.dir.path(), bytes + (1 << 20))?;
        File::create(&image)?.set_len(bytes)?;
        fs::create_dir(disk.path())?;
        run(Command::new("mkfs.ext4").arg("-q").arg(&image))?;
        disk.power_up()?;
        Ok(disk)
    }

    /// Where the files are.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("files")
    }

    /// From now on nothing reaches this ext4 disk, and what it was not told to keep is lost. Every use of it
    /// fails until [`Disk::restart`].
    #[allow(unsafe_code)]
    pub fn cut_power(&self) -> io::Result<()> {
        use std::os::fd::AsRawFd;

        let root = File::open(self.path())?;
        let mut flags = NO_LOG_FLUSH;
        // SAFETY: the descriptor is open, and the kernel reads one u32, which outlives the call.
        unsafe { ioctl::ext4_shutdown(root.as_raw_fd(), &mut flags) }?;
        Ok(())
    }

    /// Mounts the disk again, as after a cold start. Nobody may have a file of it open any more.
    pub fn restart(&self) -> io::Result<()> {
        umount2(&self.path(), MntFlags::empty())?;
        self.power_up()
    }

    fn power_up(&self) -> io::Result<()> {
        let Some(image) = &self.image else {
            return Err(io::Error::other("only an ext4 disk has a power switch"));
        };
        // The loop device goes with the mount, however that ends.
        run(Command::new("mount").args(["-t", "ext4", "-o", "loop"]).arg(image).arg(self.path()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.image.is_some() {
            // Fails if it was never mounted; then there is nothing to do.
            let _ = umount2(&self.path(), MntFlags::MNT_DETACH);
        }
        let _ = umount2(self.dir.path(), MntFlags::MNT_DETACH);
    }
}

/// An empty directory, in a mount namespace that only this thread and its children have.
fn private_dir() -> io::Result<TempDir> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    tempfile::Builder::new().prefix("loden-disk-").tempdir()
}

fn mount_tmpfs(dir: &Path, bytes: u64) -> io::Result<()> {
    let options = format!("size={bytes},mode=0700");
    Ok(mount(Some("loden-disk"), dir, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))?)
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{command:?}: {}: {}", output.status, reason.trim())))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_power_cut_loses_what_was_written_and_keeps_what_was_synced() {
        let disk = Disk::ext4(32 << 20).unwrap();
        let mut kept = File::create(disk.path().join("kept")).unwrap();
        kept.write_all(b"kept").unwrap();
        kept.sync_all().unwrap();
        fs::write(disk.path().join("lost"), b"lost").unwrap();
        disk.cut_power().unwrap();
        assert!(fs::write(disk.path().join("late"), b"late").is_err());
        drop(kept);
        disk.restart().unwrap();
        let mut names: Vec<_> =
            fs::read_dir(disk.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.retain(|name| name != "lost+found");
        assert_eq!(names, ["kept"]);
    }

    #[test]
    fn a_small_disk_is_full_after_its_size() {
        let disk = Disk::small(1 << 20).unwrap();
        let error = fs::write(disk.path().join("big"), vec![0; 2 << 20]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn other_threads_do_not_see_a_disk_and_nothing_is_left_of_it() {
        let disk = Disk::small(1 << 20).unwrap();
        fs::write(disk.path().join("file"), b"x").unwrap();
        let dir = disk.dir.path().to_owned();
        let seen = std::thread::spawn({
            let dir = dir.clone();
            move || dir.join("files/file").exists()
        });
        // A thread started by this one shares its mounts; those of the process do not.
        assert!(seen.join().unwrap());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(dir.to_str().unwrap()));
        drop(disk);
        assert!(!dir.exists());
    }
}
