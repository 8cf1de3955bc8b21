//! Both versions on made-up roots, and devices of version 2 on the machine's own.

use super::*;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("isopod-test-cgroup-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.0.join(path)).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn version_2_passes_controllers_on_and_takes_limits() {
    let folder = Folder::new("v2");
    // Files that the kernel would make by itself.
    for group in ["", "kubepods/", "kubepods/pod1/", "kubepods/pod1/c/"] {
        folder.write(&format!("{group}cgroup.controllers"), "cpu memory pids\n");
        folder.write(&format!("{group}cgroup.subtree_control"), "memory\n");
    }
    let cgroups = Cgroups::detect(&folder.0).unwrap();
    assert!(cgroups.unified());
    cgroups.create("/kubepods/pod1/c").unwrap();
    assert_eq!(
        folder.read("kubepods/pod1/cgroup.subtree_control"),
        "+pidsy\n",
        "a write each: the kernel adds, a plain file is overwritten"
    );
    for file in ["memory.max", "memory.oom.group", "cpu.max"] {
        folder.write(&format!("kubepods/pod1/c/{file}"), "");
    }
    let resources = LinuxContainerResources {
        memory_limit_in_bytes: 4096,
        cpu_quota: 1000,
        cpu_period: 2000,
        ..LinuxContainerResources::default()
    };
    cgroups.set("/kubepods/pod1/c", &resources).unwrap();
    assert_eq!(folder.read("kubepods/pod1/c/memory.max"), "4096");
    assert_eq!(folder.read("kubepods/pod1/c/cpu.max"), "1000 2000");
    let spec = cgroups.spec("/kubepods/pod1/c");
    let group = folder.0.join("kubepods/pod1/c").to_string_lossy().into_owned();
    assert_eq!(spec, CgroupSpec { oom_file: format!("{group}/memory.events"), folders: vec![group], unified: true });
}

#[test]
fn version_2_counts_what_is_used() {
    let folder = Folder::new("usage");
    folder.write("cgroup.controllers", "");
    folder.write("g/cpu.stat", "usage_usec 1500\nuser_usec 1\nnr_throttled 7\n");
    folder.write("g/memory.current", "1000\n");
    folder.write("g/memory.stat", "anon 600\ninactive_file 300\npgfault 5\npgmajfault 1\n");
    folder.write("g/memory.max", "max\n");
    folder.write("g/pids.current", "3\n");
    let usage = Cgroups::detect(&folder.0).unwrap().usage("/g").unwrap();
    let expected = Usage {
        cpu_nanoseconds: 1_500_000,
        throttled_periods: 7,
        memory_bytes: 1000,
        inactive_file_bytes: 300,
        rss_bytes: 600,
        page_faults: 5,
        major_page_faults: 1,
        memory_limit_bytes: None,
        process_count: 3,
    };
    assert_eq!(usage, expected);
}

#[test]
fn version_1_has_a_folder_per_controller_and_inherits_processors() {
    let folder = Folder::new("v1");
    for controller in ["cpu,cpuacct", "cpuset", "memory", "systemd"] {
        folder.write(&format!("{controller}/tasks"), "");
    }
    std::os::unix::fs::symlink("cpu,cpuacct", folder.0.join("cpu")).unwrap();
    std::os::unix::fs::symlink("cpu,cpuacct", folder.0.join("cpuacct")).unwrap();
    folder.write("cpuset/cpuset.cpus", "0-1\n");
    folder.write("cpuset/cpuset.mems", "0\n");
    folder.write("cpuset/g/tasks", "");
    folder.write("cpuset/g/cpuset.cpus", "\n");
    folder.write("cpuset/g/cpuset.mems", "0\n");
    let cgroups = Cgroups::detect(&folder.0).unwrap();
    assert!(!cgroups.unified());
    let names: Vec<&str> = cgroups.v1_names().collect();
    assert_eq!(names, ["cpu,cpuacct", "cpuset", "memory", "name=systemd"]);
    cgroups.create("/g").unwrap();
    assert_eq!(folder.read("cpuset/g/cpuset.cpus"), "0-1");
    folder.write("cpu,cpuacct/g/cpu.shares", "");
    cgroups.set("/g", &LinuxContainerResources { cpu_shares: 1, ..LinuxContainerResources::default() }).unwrap();
    assert_eq!(folder.read("cpu,cpuacct/g/cpu.shares"), "2");
    let spec = cgroups.spec("/g");
    assert_eq!(spec.folders.len(), 4);
    assert!(spec.oom_file.ends_with("memory/g/memory.oom_control"));
}

#[test]
fn no_control_groups_is_an_error() {
    let folder = Folder::new("none");
    assert!(Cgroups::detect(&folder.0).is_err());
}

#[test]
fn device_rules_are_written_as_version_1_reads_them() {
    assert_eq!(DeviceRule::character(136, None).to_string(), "c 136:* rwm");
    assert_eq!(DeviceRule::ALL.to_string(), "a *:* rwm");
    assert_eq!(DeviceRule { write: false, mknod: false, ..DeviceRule::character(1, Some(3)) }.to_string(), "c 1:3 r");
}

/// The kernel's own verifier accepts the program, and a process in the group meets it.
#[test]
fn version_2_devices_are_refused_unless_a_rule_allows_them() {
    let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
    let root = root.into_iter().find(|root| root.join("cgroup.controllers").exists()).expect("version 2 is mounted");
    let group = root.join(format!("isopod-test-devices-{}", std::process::id()));
    std::fs::create_dir(&group).unwrap();
    let rules = [
        DeviceRule { mknod: false, ..DeviceRule::character(1, Some(3)) },
        DeviceRule { write: false, ..DeviceRule::character(1, Some(5)) },
        DeviceRule { kind: 'b', read: false, write: false, ..DeviceRule::ALL },
    ];
    device::attach(&group, &rules).unwrap();
    let script = format!(
        "echo $$ > {}/cgroup.procs; (: > /dev/null) && echo null-written; (: < /dev/zero) && echo zero-read; \
         (: > /dev/zero) && echo zero-written; (: < /dev/full) && echo full-read; true",
        group.display()
    );
    let output = std::process::Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
    let removed = std::fs::remove_dir(&group);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "null-written\nzero-read\n");
    removed.unwrap();
}
