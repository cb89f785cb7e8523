//! What the engine example loads from an ext4 image must be what e2fsprogs reports. The image is
//! made from this repository's sources with `mke2fs -d` and fragmented with `debugfs`; without
//! e2fsprogs the test says so and checks nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use freemap::{Allocator, Extent};

fn tool(name: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/sbin", "/usr/bin", "/opt/homebrew/sbin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists())
}

fn run(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Builds the engine example as cargo would and runs it.
fn engine(arguments: &[&str]) -> String {
    let cargo = PathBuf::from(env!("CARGO"));
    let mut all = vec!["run", "--quiet", "--example", "engine", "--"];
    all.extend_from_slice(arguments);
    run(&cargo, &all)
}

fn extents(text: &str) -> Vec<Extent> {
    let number = |text: &str| text.trim().parse::<u64>().unwrap();
    text.lines()
        .filter_map(|line| line.split_once(','))
        .map(|(start, len)| Extent::new(number(start), number(len)))
        .collect()
}

#[test]
fn an_ext4_image_is_loaded_as_e2fsprogs_reports_it() {
    let (Some(mke2fs), Some(debugfs)) = (tool("mke2fs"), tool("debugfs")) else {
        eprintln!("e2fsprogs is not installed: nothing was checked");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    for number in 0..400usize {
        // Sizes from a tenth of a block to fifty blocks.
        std::fs::write(tree.join(format!("f{number}")), vec![7; 400 + number * number % 200_000])
            .unwrap();
    }
    let image = dir.path().join("image");
    let image = image.to_str().unwrap();
    run(
        &mke2fs,
        &["-q", "-F", "-t", "ext4", "-b", "4096", "-d", tree.to_str().unwrap(), image, "160M"],
    );
    let script = dir.path().join("script");
    let removals: String = (0..400).step_by(3).map(|n| format!("rm /f{n}\n")).collect();
    std::fs::write(&script, removals).unwrap();
    run(&debugfs, &["-w", "-f", script.to_str().unwrap(), image]);

    let loaded = extents(&engine(&["--ext4", image, "--print-free"]));
    assert!(loaded.len() > 100, "the image is not fragmented");

    // `testb` of debugfs asks the block bitmaps themselves. It does not take block 0, which holds
    // the superblock.
    let blocks = 160 * 256;
    let answers = run(&debugfs, &["-R", &format!("testb 1 {}", blocks - 1), image]);
    let answers = answers.lines().filter(|line| line.starts_with("Block "));
    let mut free = vec![false];
    free.extend(answers.map(|line| line.contains("not in use")));
    assert_eq!(free.len(), blocks);
    let mut bitmap = vec![0u64; blocks.div_ceil(64)];
    for block in (0..blocks).filter(|&block| !free[block]) {
        bitmap[block / 64] |= 1 << (block % 64);
    }
    let told = Allocator::from_bitmap(blocks as u64, &bitmap).unwrap();
    assert_eq!(loaded, told.free_extents().collect::<Vec<_>>());

    let result = engine(&["--ext4", image, "--seconds", "1", "--json"]);
    assert!(result.contains("\"verified\":true"), "{result}");
}

#[test]
fn a_list_of_free_extents_is_loaded_as_it_is_written() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/aged-xfs.free.csv");
    let list = path.to_str().unwrap();
    let loaded = engine(&["--free-list", list, "--print-free"]);
    assert_eq!(extents(&loaded), extents(&std::fs::read_to_string(&path).unwrap()));
    let result = engine(&["--free-list", list, "--seconds", "1", "--fill", "97", "--json"]);
    assert!(result.contains("\"verified\":true"), "{result}");
}
