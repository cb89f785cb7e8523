//! Files and devices: who may have which part of them, and what a new log refuses to write over.

use std::path::{Path, PathBuf};
use std::process::Command;

use freemap::{CommitError, CreateOptions, FileDisk, Found, LogError, OpenOptions, SpaceMapLog};

fn small() -> CreateOptions {
    CreateOptions::new().limit(64 << 10)
}

fn is_locked(opened: Result<FileDisk, LogError>, path: &Path) -> bool {
    let name = path.to_str().unwrap();
    matches!(opened, Err(LogError::Locked { file }) if file == name)
}

#[test]
fn the_same_file_twice_in_one_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("free.log");
    let first = SpaceMapLog::create(FileDisk::open(&path).unwrap(), 1000, &small()).unwrap();
    assert!(is_locked(FileDisk::open(&path), &path));
    assert!(is_locked(FileDisk::open_existing(&path), &path));
    assert!(is_locked(FileDisk::open_read_only(&path), &path));
    assert!(is_locked(FileDisk::region(&path, 0, 65_536), &path));
    assert!(is_locked(FileDisk::region(&path, 65_536, 4096), &path));
    drop(first);
    SpaceMapLog::open(FileDisk::open_existing(&path).unwrap(), &OpenOptions::new()).unwrap();
}

/// A log in use can be looked at by whoever does not ask for a lock, and is not disturbed.
#[test]
fn looking_takes_no_lock() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("free.log");
    let used = SpaceMapLog::create(FileDisk::open(&path).unwrap(), 1000, &small()).unwrap();
    let mut transaction = used.allocator.begin();
    transaction.allocate(7).unwrap();
    let lsn = transaction.commit(&used.log).unwrap();
    let looker = FileDisk::open_unlocked(&path).unwrap();
    let part = FileDisk::region_unlocked(&path, 0, 65_536).unwrap();
    let (seen, report) = SpaceMapLog::inspect(looker, &OpenOptions::new()).unwrap();
    assert_eq!((seen.free_blocks(), report.last), (993, lsn));
    // It cannot be made a writer.
    let before = std::fs::read(&path).unwrap();
    for disk in [FileDisk::open_unlocked(&path).unwrap(), part] {
        assert!(SpaceMapLog::open(disk, &OpenOptions::new()).is_err());
    }
    let disk = FileDisk::open_unlocked(&path).unwrap();
    assert!(SpaceMapLog::create(disk, 1000, &small().overwrite()).is_err());
    assert!(before == std::fs::read(&path).unwrap());
    let looker = FileDisk::open_unlocked(&path).unwrap();
    drop(used);
    SpaceMapLog::open(FileDisk::open(&path).unwrap(), &OpenOptions::new()).unwrap();
    drop(looker);
    assert!(matches!(FileDisk::open_unlocked(dir.path().join("none")), Err(LogError::Io(_))));
    assert!(!dir.path().join("none").exists());
}

/// A part of a device that is too small for the log is refused, and nothing of it is written.
#[test]
fn a_region_that_is_too_small_stays_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("device");
    let mut bytes = vec![0xAA; 1 << 20];
    bytes[65_536..196_608].fill(0);
    std::fs::write(&path, &bytes).unwrap();
    let disk = FileDisk::region(&path, 65_536, 131_072).unwrap();
    let error = SpaceMapLog::create(disk, 1 << 20, &CreateOptions::new()).unwrap_err();
    assert!(error.to_string().contains("device"), "{error}");
    assert!(std::fs::read(&path).unwrap() == bytes);
}

/// Wrong paths give errors with the path in them, and leave nothing behind.
#[test]
fn errors_of_opening_name_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("no folder").join("free.log");
    let (empty, short) = (dir.path().join("empty"), dir.path().join("short"));
    std::fs::write(&empty, []).unwrap();
    std::fs::write(&short, [0; 5000]).unwrap();
    let mut said = vec![
        FileDisk::open(dir.path()).unwrap_err(),
        FileDisk::open(&missing).unwrap_err(),
        FileDisk::open_existing(&missing).unwrap_err(),
        FileDisk::open_read_only(&missing).unwrap_err(),
        FileDisk::region(&missing, 0, 4096).unwrap_err(),
        FileDisk::region(&short, 4096, 4096).unwrap_err(),
        FileDisk::region_unlocked(&short, 4096, 4096).unwrap_err(),
    ];
    for path in [&empty, &short] {
        let disk = FileDisk::open_existing(path).unwrap();
        said.push(SpaceMapLog::open(disk, &OpenOptions::new()).unwrap_err());
    }
    for error in &said {
        assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    // A read-only disk is for looking at.
    let path = dir.path().join("log");
    drop(SpaceMapLog::create(FileDisk::open(&path).unwrap(), 1000, &small()).unwrap());
    let before = std::fs::read(&path).unwrap();
    SpaceMapLog::open(FileDisk::open_read_only(&path).unwrap(), &OpenOptions::new()).unwrap_err();
    SpaceMapLog::inspect(FileDisk::open_read_only(&path).unwrap(), &OpenOptions::new()).unwrap();
    assert!(before == std::fs::read(&path).unwrap());
}

#[cfg(all(any(target_os = "linux", target_os = "android"), target_pointer_width = "64"))]
mod regions {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn device(dir: &Path) -> PathBuf {
        let path = dir.join("device");
        std::fs::File::create(&path).unwrap().set_len(16 * MIB).unwrap();
        path
    }

    /// Locks were the whole file's, and two logs in one file in each other's way.
    #[test]
    fn two_logs_in_two_parts_of_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = device(dir.path());
        let region = |at, len| FileDisk::region(&path, at, len);
        let one = SpaceMapLog::create(region(0, 4 * MIB).unwrap(), 1000, &small()).unwrap();
        let two = SpaceMapLog::create(region(4 * MIB, 4 * MIB).unwrap(), 2000, &small()).unwrap();
        for log in [&one, &two] {
            let mut transaction = log.allocator.begin();
            transaction.allocate(10).unwrap();
            transaction.commit(&log.log).unwrap();
        }
        // Whatever overlaps is refused, and does not take the place of what it overlaps.
        for (at, len) in [(0, 4096), (4 * MIB - 4096, 4096), (4 * MIB, 1), (2 * MIB, 4 * MIB)] {
            assert!(is_locked(region(at, len), &path), "{len} bytes at {at}");
        }
        let third = region(8 * MIB, 8 * MIB).expect("nobody's");
        assert!(is_locked(FileDisk::open(&path), &path));
        assert!(is_locked(FileDisk::open_read_only(&path), &path));
        drop((one, third));
        assert!(is_locked(FileDisk::open(&path), &path));
        let one = SpaceMapLog::open(region(0, 4 * MIB).unwrap(), &OpenOptions::new()).unwrap();
        assert_eq!((one.allocator.free_blocks(), two.allocator.free_blocks()), (990, 1990));
        drop((one, two));
        let reader = FileDisk::open_read_only(&path).unwrap();
        assert!(is_locked(region(8 * MIB, MIB), &path));
        drop(reader);
        let whole = FileDisk::open_existing(&path).unwrap();
        assert!(is_locked(region(8 * MIB, MIB), &path));
        drop(whole);
        assert!(region(8 * MIB, MIB).is_ok());
    }

    /// The other process of the next test: it is told what to open, and says whether it could.
    #[test]
    fn another_process() {
        let Some(path) = std::env::var_os("FREEMAP_DEVICE").map(PathBuf::from) else { return };
        let opened = match std::env::var("FREEMAP_OFFSET").unwrap().parse() {
            Ok(offset) => FileDisk::region(&path, offset, 4 * MIB),
            Err(_) => FileDisk::open_existing(&path),
        };
        match opened {
            Ok(disk) => drop(SpaceMapLog::create(disk, 1000, &small()).unwrap()),
            Err(LogError::Locked { .. }) => std::process::exit(7),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn two_processes_can_have_two_parts_of_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = device(dir.path());
        let other = |offset: &str| {
            let mut test = Command::new(std::env::current_exe().unwrap());
            test.args(["--exact", "regions::another_process", "--quiet"]);
            test.env("FREEMAP_DEVICE", &path).env("FREEMAP_OFFSET", offset);
            test.output().unwrap().status.code().unwrap()
        };
        let mine = FileDisk::region(&path, 0, 4 * MIB).unwrap();
        let mine = SpaceMapLog::create(mine, 1000, &small()).unwrap();
        assert_eq!(other("4194304"), 0, "another part");
        assert_eq!(other("2097152"), 7, "half of it is ours");
        assert_eq!(other("whole"), 7);
        drop(mine);
        let theirs = FileDisk::region(&path, 4 * MIB, 4 * MIB).unwrap();
        SpaceMapLog::open(theirs, &OpenOptions::new()).expect("their log");
        let whole = FileDisk::open_existing(&path).unwrap();
        assert_eq!(other("8388608"), 7);
        drop(whole);
        assert_eq!(other("8388608"), 0);
    }
}

fn tool(name: &str) -> Option<PathBuf> {
    let found = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/opt/homebrew/sbin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists());
    if found.is_none() {
        println!("{name} is not installed: nothing was checked with it");
    }
    found
}

fn run(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {told}", program.display());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// More than a log's area.
fn beginning(file: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(file).unwrap();
    std::io::Read::read_to_end(&mut std::io::Read::take(file, 20 << 20), &mut bytes).unwrap();
    bytes
}

/// As the tools make them: each is refused by name, and stays as it was.
#[test]
fn real_file_systems_are_recognised() {
    let makers: &[(&str, &[&str], Found)] = &[
        ("mke2fs", &["-q", "-F", "-t", "ext4"], Found::Ext),
        ("mke2fs", &["-q", "-F", "-t", "ext2"], Found::Ext),
        ("mkfs.xfs", &["-q", "-f"], Found::Xfs),
        ("mkfs.btrfs", &["-q", "-f"], Found::Btrfs),
        ("mkfs.vfat", &["-F", "16"], Found::Fat),
        ("mkfs.vfat", &["-F", "32"], Found::Fat),
        ("mkfs.exfat", &[], Found::ExFat),
        ("mkfs.ntfs", &["-q", "-F", "-Q"], Found::Ntfs),
        ("mkswap", &[], Found::Swap),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (number, (name, options, expected)) in makers.iter().enumerate() {
        let Some(maker) = tool(name) else { continue };
        let image = dir.path().join(format!("{number}"));
        std::fs::File::create(&image).unwrap().set_len(320 << 20).unwrap();
        run(&maker, &[options, &[image.to_str().unwrap()][..]].concat());
        let before = beginning(&image);
        let disk = FileDisk::open_existing(&image).unwrap();
        let error = SpaceMapLog::create(disk, 1 << 20, &CreateOptions::new()).unwrap_err();
        let LogError::NotBlank { found, .. } = &error else { panic!("{name}: {error}") };
        assert_eq!(*found, Some(*expected), "{name}: {error}");
        assert!(before == beginning(&image), "{name}");
        std::fs::remove_file(&image).unwrap();
    }
}

/// A loop device, as long as it is there.
#[cfg(target_os = "linux")]
struct Loop(PathBuf);

#[cfg(target_os = "linux")]
impl Drop for Loop {
    fn drop(&mut self) {
        drop(Command::new("losetup").arg("-d").arg(&self.0).output());
    }
}

#[cfg(target_os = "linux")]
fn loop_device(file: &Path) -> Option<Loop> {
    let losetup = tool("losetup")?;
    let output = Command::new(losetup).args(["-f", "--show"]).arg(file).output().unwrap();
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        println!("no loop device ({}): nothing was checked", told.trim());
        return None;
    }
    Some(Loop(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())))
}

/// A mounted btrfs device was taken: it was neither claimed nor looked at further than 8 KiB.
#[cfg(target_os = "linux")]
#[test]
fn a_device_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("image");
    std::fs::File::create(&file).unwrap().set_len(64 << 20).unwrap();
    let Some(device) = loop_device(&file) else { return };
    let path = device.0.clone();
    let whole = FileDisk::open(&path).unwrap();
    assert!(is_locked(FileDisk::open_existing(&path), &path));
    assert!(is_locked(FileDisk::region(&path, 0, 1 << 20), &path));
    drop(whole);
    // Two logs in two parts of a device.
    let part = |at: u64| FileDisk::region(&path, at, 8 << 20).unwrap();
    let one = SpaceMapLog::create(part(0), 1000, &small()).unwrap();
    let two = SpaceMapLog::create(part(8 << 20), 1000, &small()).unwrap();
    assert!(is_locked(FileDisk::open(&path), &path));
    let grown = one.log.grow(&one.allocator, 1 << 30);
    assert!(grown.is_err(), "a region does not grow");
    drop((one, two));
    // A whole device does not grow either, and says so.
    let options = CreateOptions::new().limit(1 << 20).overwrite();
    let opened = SpaceMapLog::create(FileDisk::open(&path).unwrap(), 1000, &options).unwrap();
    let grown = opened.log.grow(&opened.allocator, opened.log.max_blocks()).unwrap_err();
    assert!(
        matches!(&grown, LogError::Commit(CommitError::Write(failure))
        if failure.error.kind() == std::io::ErrorKind::StorageFull),
        "{grown}"
    );
    let mut transaction = opened.allocator.begin();
    transaction.allocate(3).unwrap();
    transaction.commit(&opened.log).expect("it goes on");
    drop(opened);

    let (Some(mke2fs), Some(mount)) = (tool("mke2fs"), tool("mount")) else { return };
    run(&mke2fs, &["-q", "-F", "-t", "ext4", path.to_str().unwrap()]);
    let at = dir.path().join("mounted");
    std::fs::create_dir(&at).unwrap();
    let mounted = Command::new(mount).arg(&path).arg(&at).output().unwrap();
    if !mounted.status.success() {
        println!("cannot mount: nothing was checked with a mounted device");
        return;
    }
    let refused = [
        FileDisk::open(&path),
        FileDisk::open_existing(&path),
        FileDisk::region(&path, 16 << 20, 16 << 20),
    ]
    .map(|opened| is_locked(opened, &path));
    let looked = FileDisk::open_unlocked(&path).map(drop);
    run(&tool("umount").unwrap(), &[at.to_str().unwrap()]);
    assert_eq!(refused, [true; 3]);
    looked.expect("looking is always possible");
    let error = SpaceMapLog::create(FileDisk::open(&path).unwrap(), 1000, &small()).unwrap_err();
    assert!(matches!(error, LogError::NotBlank { found: Some(Found::Ext), .. }), "{error}");
}
