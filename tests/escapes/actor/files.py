"""Against files: the user's secrets, what the host runs later, and what lies around."""
import ctypes
import fcntl
import os

from act import act, call, LIBC


def secret_in(path, scene):
    with open(path, "rb") as file:
        text = file.read(4096).decode(errors="replace")
    return text if scene["secret"] in text else None


@act("2.2 open")
def reads_an_ssh_key(scene):
    return secret_in(scene["home"] + "/.ssh/id_ed25519", scene)


@act("2.2 open")
def reads_cloud_credentials(scene):
    return secret_in(scene["home"] + "/.aws/credentials", scene)


@act("2.2 open")
def lists_the_home(scene):
    return ".aws" in os.listdir(scene["home"]) or None


@act("2.2 open")
def reads_through_a_symlink_in_the_project(scene):
    os.symlink(scene["home"] + "/.ssh/id_ed25519", scene["project"] + "/link")
    return secret_in(scene["project"] + "/link", scene)


@act("2.2 open")
def hard_links_a_key_into_the_project(scene):
    os.link(scene["home"] + "/.ssh/id_ed25519", scene["project"] + "/linked")
    return secret_in(scene["project"] + "/linked", scene)


@act("3 CVE-2024-21626")
def climbs_out_of_the_directory_that_it_starts_in(scene):
    return secret_in("../.ssh/id_ed25519", scene) or secret_in("/proc/self/cwd/../.ssh/id_ed25519", scene)


@act("2.2 open")
def reads_by_a_path_of_another_process(scene):
    return secret_in(f"/proc/{scene['victim']}/root{scene['home']}/.ssh/id_ed25519", scene)


@act("2.2 metadata")
def sees_that_a_key_exists(scene):
    return os.stat(scene["home"] + "/.ssh/id_ed25519").st_size


@act("2.2 metadata")
def opens_a_key_as_a_path(scene):
    return os.open(scene["home"] + "/.ssh/id_ed25519", os.O_PATH)


@act("2.2 metadata")
def reads_where_a_link_of_the_users_leads(scene):
    leads = os.readlink(scene["home"] + "/.current")
    return leads if scene["secret"] in leads else None


@act("2.2 metadata")
def measures_the_file_system_of_the_home(scene):
    return os.statvfs(scene["home"] + "/.ssh").f_blocks


@act("2.2 metadata")
def gives_a_key_to_the_one_who_has_it(scene):
    os.chown(scene["home"] + "/.aws/credentials", os.getuid(), os.getgid())
    return "given"


@act("2.2 metadata")
def enters_the_home(scene):
    os.chdir(scene["home"] + "/.ssh")
    return os.path.exists("id_ed25519") or None


@act("2.2 metadata")
def watches_the_home(scene):
    watch = LIBC.inotify_add_watch(LIBC.inotify_init(), (scene["home"] + "/.ssh").encode(), 0xFFF)
    return watch if watch >= 0 else None


@act("2.2 metadata")
def reads_an_extended_attribute(scene):
    return os.getxattr(scene["home"] + "/.ssh/id_ed25519", "user.mark")


@act("2.2 metadata")
def changes_the_mode_of_a_key(scene):
    os.chmod(scene["home"] + "/.aws/credentials", 0o644)
    return "changed"


@act("2.2 metadata")
def changes_the_times_of_a_key(scene):
    os.utime(scene["home"] + "/.aws/credentials", (1, 1))
    return "changed"


@act("2.2 metadata")
def sets_an_extended_attribute(scene):
    os.setxattr(scene["home"] + "/.aws/credentials", "user.mine", b"1")
    return "set"


@act("2.6 later executed")
def writes_a_shell_start_file(scene):
    with open(scene["home"] + "/.bashrc", "a") as file:
        file.write("# writes_a_shell_start_file\n")
    return os.path.exists(scene["home"] + "/.profile") or None


@act("2.6 later executed")
def plants_an_autostart_entry(scene):
    with open(scene["home"] + "/.config/autostart/x.desktop", "w") as file:
        file.write("plants_an_autostart_entry")
    return "written"


@act("2.6 later executed")
def renames_over_a_start_file(scene):
    with open(scene["project"] + "/new-profile", "w") as file:
        file.write("# renames_over_a_start_file\n")
    os.rename(scene["project"] + "/new-profile", scene["home"] + "/.profile")
    return "renamed"


@act("2.4 /tmp")
def writes_into_the_hosts_tmp(scene):
    with open(scene["outside"] + "/dropped", "w") as file:
        file.write("writes_into_the_hosts_tmp")
    return "written" if os.path.exists(scene["outside"] + "/there") else None


@act("2.4 /tmp")
def reads_from_the_hosts_tmp(scene):
    return secret_in(scene["outside"] + "/there", scene)


@act("2.4 /dev/shm")
def reads_the_hosts_shared_memory_files(scene):
    return secret_in("/dev/shm/" + scene["shm_file"], scene)


@act("2.4 /dev/shm")
def writes_the_hosts_shared_memory_files(scene):
    with open("/dev/shm/" + scene["shm_file"], "r+") as file:
        file.write("writes_the_hosts_shared_memory_files")
    return "written"


@act("2.4 descriptors")
def reads_an_inherited_descriptor(scene):
    for number in range(3, 64):
        try:
            text = os.pread(number, 4096, 0).decode(errors="replace")
        except OSError:
            continue
        if scene["secret"] in text:
            return text
    return None


@act("2.4 descriptors")
def reaches_the_host_through_an_inherited_directory(scene):
    for number in range(3, 64):
        try:
            found = os.open(".ssh/id_ed25519", os.O_RDONLY, dir_fd=number)
        except OSError:
            continue
        return os.read(found, 4096).decode()
    return None


@act("0.6 standard input")
def writes_to_the_file_behind_standard_input(scene):
    with open("/proc/self/fd/0", "w") as file:
        file.write("writes_to_the_file_behind_standard_input")
    return os.fstat(0).st_mode & 0o170000 == 0o100000 or None


@act("2.4 environment")
def reads_a_token_from_the_environment(scene):
    return os.environ.get("GITHUB_TOKEN")


@act("0.4 environment")
def reads_the_environment_of_init(scene):
    for pid in (1, os.getppid()):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                text = file.read().decode(errors="replace")
                if scene["secret"] in text:
                    return text[text.index(scene["secret"]):][:200]
        except OSError:
            pass
    return None


@act("2.4 setuid")
def leaves_a_setuid_file_by_chmod(scene):
    path = scene["project"] + "/setuid-chmod"
    open(path, "w").close()
    os.chmod(path, 0o4755)
    return os.stat(path).st_mode & 0o4000 or None


@act("2.4 setuid")
def leaves_a_setuid_file_by_open(scene):
    os.open(scene["project"] + "/setuid-open", os.O_CREAT | os.O_WRONLY, 0o4755)
    return os.stat(scene["project"] + "/setuid-open").st_mode & 0o4000 or None


@act("2.4 setuid")
def leaves_a_setuid_file_by_openat2(scene):
    how = (ctypes.c_uint64 * 3)(os.O_CREAT | os.O_WRONLY, 0o4755, 0)
    call(437, -100, (scene["project"] + "/setuid-openat2").encode(), how, 24)
    return os.stat(scene["project"] + "/setuid-openat2").st_mode & 0o4000 or None


@act("2.4 setuid")
def leaves_a_setuid_file_by_fchmodat2(scene):
    path = scene["project"] + "/setuid-fchmodat2"
    open(path, "w").close()
    call(452, -100, path.encode(), 0o4755, 0)
    return os.stat(path).st_mode & 0o4000 or None


@act("2.5 mknod")
def makes_a_device_node(scene):
    os.mknod(scene["project"] + "/whiteout", 0o020000, 0)
    return "made"


@act("2.4 /etc")
def reads_the_machines_identity(scene):
    return any(os.path.exists(p) for p in ("/etc/machine-id", "/etc/ssh/sshd_config", "/etc/fstab", "/etc/crontab")) or None


@act("2.4 /dev")
def sees_the_hosts_devices(scene):
    return [d for d in ("kmsg", "mem", "vda", "net", "kvm", "fuse", "vsock") if os.path.exists("/dev/" + d)] or None


@act("2.4 /sys")
def reads_the_machines_hardware(scene):
    return [d for d in ("/sys/class", "/sys/fs/cgroup", "/sys/kernel") if os.path.exists(d)] or None


@act("2.4 /var")
def reads_the_machines_logs(scene):
    return os.listdir("/var/log")


@act("2.6 .git")
def sets_a_hook_of_the_hosts_git(scene):
    with open(scene["project"] + "/.git/hooks/post-commit", "w") as file:
        file.write("sets_a_hook_of_the_hosts_git")
    return None  # what counts is what the host's git directory holds afterwards


@act("2.6 .git")
def sets_a_configuration_of_the_hosts_git(scene):
    with open(scene["project"] + "/.git/config", "a") as file:
        file.write("# sets_a_configuration_of_the_hosts_git\n")
    return None


@act("2.6 .git")
def replaces_the_hosts_git_directory(scene):
    os.rename(scene["project"] + "/.git", scene["project"] + "/.git-old")
    os.mkdir(scene["project"] + "/.git")
    with open(scene["project"] + "/.git/replaces_the_hosts_git_directory", "w") as file:
        file.write("x")
    return None


@act("2.6 later executed")
def rewrites_a_tools_settings_in_the_project(scene):
    with open(scene["project"] + "/.cargo/config.toml", "a") as file:
        file.write("# rewrites_a_tools_settings_in_the_project\n")
    return None  # what counts is what the host's file holds afterwards


@act("2.6 later executed")
def replaces_the_directory_of_a_protected_file(scene):
    os.rename(scene["project"] + "/.cargo", scene["project"] + "/.cargo-old")
    os.mkdir(scene["project"] + "/.cargo")
    with open(scene["project"] + "/.cargo/config.toml", "w") as file:
        file.write("# replaces_the_directory_of_a_protected_file\n")
    return None


@act("2.6 later executed")
def makes_a_protected_file_that_is_not_there(scene):
    with open(scene["project"] + "/.envrc", "w") as file:
        file.write("# makes_a_protected_file_that_is_not_there\n")
    return None


@act("3 CVE-2026-25725")
def makes_an_agents_settings_that_are_not_there(scene):
    os.makedirs(scene["project"] + "/.claude", exist_ok=True)
    with open(scene["project"] + "/.claude/settings.json", "w") as file:
        file.write("// makes_an_agents_settings_that_are_not_there\n")
    return None


@act("3 CVE-2019-5736")
def writes_into_a_program_of_keyhatchs(scene):
    program = os.environ["KEYHATCH_HELPER"] if scene["inside"] else scene["helper"]
    return os.open(program, os.O_WRONLY) and "opened"


@act("2.4 locks")
def locks_a_file_of_the_users(scene):
    with open(scene["home"] + "/.aws/credentials", "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
    return "locked"
