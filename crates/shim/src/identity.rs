//! Who a process runs as: `/etc/passwd` and `/etc/group` of an image.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::spec::{Identity, UserSpec};

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd(text: &str) -> impl Iterator<Item = Passwd<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let home = fields.nth(1).unwrap_or_default();
        Some(Passwd { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
    })
}

/// Name, id and members of each group.
fn groups(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password, gid) = (fields.next()?, fields.next()?, fields.next()?);
        Some((name, gid.parse().ok()?, fields.next().unwrap_or_default()))
    })
}

/// Who `user` is by the image's files; the error says what is missing, in the words of containerd.
pub fn resolve(user: &UserSpec, passwd_text: &str, group_text: &str) -> Result<Identity, String> {
    let (user_part, group_part) = match user.user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user.user.as_str(), None),
    };
    let entry = match user_part {
        "" => passwd(passwd_text).find(|entry| entry.uid == 0),
        name => match name.parse::<u32>() {
            Ok(uid) => passwd(passwd_text).find(|entry| entry.uid == uid),
            Err(_) => Some(
                passwd(passwd_text)
                    .find(|entry| entry.name == name)
                    .ok_or_else(|| format!("unable to find user {name}: no matching entries in passwd file"))?,
            ),
        },
    };
    let uid = entry.as_ref().map_or_else(|| user_part.parse().unwrap_or(0), |entry| entry.uid);
    let gid = match group_part.filter(|group| !group.is_empty()) {
        Some(group) => group_id(group, group_text)?,
        None => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    let mut supplemental = Vec::from([gid]);
    if user.image_groups
        && let Some(entry) = &entry
    {
        let of_user =
            groups(group_text).filter(|(_, _, members)| members.split(',').any(|member| member == entry.name));
        supplemental.extend(of_user.map(|(_, gid, _)| gid));
    }
    supplemental.extend(&user.groups);
    let mut seen = Vec::new();
    supplemental.retain(|gid| {
        !seen.contains(gid) && {
            seen.push(*gid);
            true
        }
    });
    let home = entry.map(|entry| entry.home).filter(|home| !home.is_empty()).unwrap_or("/");
    Ok(Identity { uid, gid, groups: supplemental, home: home.to_string() })
}

fn group_id(group: &str, group_text: &str) -> Result<u32, String> {
    if let Ok(gid) = group.parse() {
        return Ok(gid);
    }
    let found = groups(group_text).find(|(name, _, _)| *name == group);
    found
        .map(|(_, gid, _)| gid)
        .ok_or_else(|| format!("unable to find group {group}: no matching entries in group file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/www:/bin/sh\nbroken\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nextra:x:50:other,web\n";

    fn check(user: &str, groups: &[u32], image_groups: bool, expected: Result<(u32, u32, &[u32], &str), &str>) {
        let spec = UserSpec { user: user.into(), groups: groups.into(), image_groups };
        let identity = resolve(&spec, PASSWD, GROUP);
        let expected = expected.map_err(String::from).map(|(uid, gid, groups, home)| Identity {
            uid,
            gid,
            groups: groups.into(),
            home: home.into(),
        });
        assert_eq!(identity, expected, "{user}");
    }

    #[test]
    fn users_are_numbers_or_names_of_the_image() {
        check("", &[], true, Ok((0, 0, &[0], "/root")));
        check("web", &[], true, Ok((33, 34, &[34, 50], "/var/www")));
        check("web", &[7, 50], false, Ok((33, 34, &[34, 7, 50], "/var/www")));
        check("33", &[7], true, Ok((33, 34, &[34, 50, 7], "/var/www")));
        check("1000", &[], true, Ok((1000, 0, &[0], "/")));
        check("1000:2000", &[], true, Ok((1000, 2000, &[2000], "/")));
        check("web:extra", &[], true, Ok((33, 50, &[50], "/var/www")));
        check("nobody", &[], true, Err("unable to find user nobody: no matching entries in passwd file"));
        check("0:none", &[], true, Err("unable to find group none: no matching entries in group file"));
    }
}
