//! System call filters from a profile in the format of container runtimes. Pure.
//!
//! The first rule for a call whose conditions hold decides, else the profile's default. Upstream: `libseccomp` as `runc`
//! drives it; where several rules fit, it too lets the first decide unless one is stricter.

use serde::Deserialize;
use shim::spec::Filter;

use super::capabilities::bit;
use super::syscalls::number;

/// The longest program that the kernel takes.
const INSTRUCTIONS_MAX: usize = 4096;

/// A profile as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: Action,
    default_errno_ret: Option<u16>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    names: Vec<String>,
    action: Action,
    errno_ret: Option<u16>,
    #[serde(default)]
    args: Vec<Argument>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

/// On what processes and machines a rule holds.
#[derive(Clone, Debug, Default, Deserialize)]
struct Condition {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: Operator,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Operator {
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    #[serde(rename = "SCMP_CMP_LE")]
    LessOrEqual,
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterOrEqual,
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Action {
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(rename = "SCMP_ACT_KILL", alias = "SCMP_ACT_KILL_THREAD")]
    KillThread,
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
}

impl Action {
    /// As the kernel takes it. Without a number of its own, an error is `EPERM`.
    fn word(self, errno: Option<u16>) -> u32 {
        let data = u32::from(errno.unwrap_or(libc::EPERM as u16));
        match self {
            Action::Allow => libc::SECCOMP_RET_ALLOW,
            Action::Errno => libc::SECCOMP_RET_ERRNO | data,
            Action::KillThread => libc::SECCOMP_RET_KILL_THREAD,
            Action::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
            Action::Trap => libc::SECCOMP_RET_TRAP,
            Action::Trace => libc::SECCOMP_RET_TRACE | data,
            Action::Log => libc::SECCOMP_RET_LOG,
        }
    }
}

/// What profiles call this architecture, and what the kernel calls it.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: (&str, u32) = ("amd64", 0xc000_003e);
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: (&str, u32) = ("arm64", 0xc000_00b7);

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;
/// Where the kernel shows a call's number, its architecture and its arguments, low halves first.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// An instruction; the jumps are relative and may leave the block: then they go to its end.
#[derive(Clone, Copy, Debug)]
struct Instruction {
    code: u16,
    yes: Jump,
    no: Jump,
    value: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Jump {
    /// So many instructions further.
    Over(usize),
    /// To the end of the block: the rule does not hold.
    Out,
}

fn plain(code: u16, value: u32) -> Instruction {
    Instruction { code, yes: Jump::Over(0), no: Jump::Over(0), value }
}

fn jump(code: u16, value: u32, yes: Jump, no: Jump) -> Instruction {
    Instruction { code, yes, no, value }
}

/// The filter that a profile's text asks for, for a process whose bounding set is `capabilities`.
pub(crate) fn filter(text: &str, capabilities: u64) -> Result<Filter, String> {
    let profile: Profile = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let default = profile.default_action.word(profile.default_errno_ret);
    // A call of another architecture has other numbers: no rule may be taken for it.
    let mut program = vec![
        plain(LOAD, ARCH),
        jump(JUMP_EQUAL, ARCHITECTURE.1, Jump::Over(1), Jump::Over(0)),
        plain(RETURN, libc::SECCOMP_RET_KILL_PROCESS),
    ];
    for rule in profile.syscalls.iter().filter(|rule| holds(rule, capabilities)) {
        let action = rule.action.word(rule.errno_ret);
        if action == default && rule.args.is_empty() && !overlaps(&profile, rule) {
            continue;
        }
        // A name that this machine does not know cannot be called here either.
        for number in rule.names.iter().filter_map(|name| number(name)) {
            program.extend(block(number, &rule.args, action)?);
        }
    }
    program.push(plain(RETURN, default));
    encode(&program)
}

/// Whether a later rule says something about a call that this one names.
fn overlaps(profile: &Profile, rule: &Rule) -> bool {
    let others = profile.syscalls.iter().filter(|other| !std::ptr::eq(*other, rule));
    others.flat_map(|other| &other.names).any(|name| rule.names.contains(name))
}

fn holds(rule: &Rule, capabilities: u64) -> bool {
    let has = |name: &String| bit(name).is_some_and(|bit| capabilities & bit != 0);
    let here = |arches: &[String]| arches.iter().any(|arch| arch == ARCHITECTURE.0);
    let Rule { includes, excludes, .. } = rule;
    includes.caps.iter().all(has)
        && (includes.arches.is_empty() || here(&includes.arches))
        && !excludes.caps.iter().any(has)
        && !here(&excludes.arches)
}

/// The instructions of one call: its number, every condition, its answer. All jumps out go behind them.
fn block(number: i64, arguments: &[Argument], action: u32) -> Result<Vec<Instruction>, String> {
    let number = u32::try_from(number).map_err(|_| format!("system call {number} has no number here"))?;
    let mut body = vec![plain(LOAD, NUMBER), jump(JUMP_EQUAL, number, Jump::Over(0), Jump::Out)];
    for argument in arguments {
        if argument.index > 5 {
            return Err(format!("a system call has no argument {}", argument.index));
        }
        body.extend(condition(argument));
    }
    body.push(plain(RETURN, action));
    let end = body.len();
    for (at, instruction) in body.iter_mut().enumerate() {
        for jump in [&mut instruction.yes, &mut instruction.no] {
            if *jump == Jump::Out {
                *jump = Jump::Over(end - at - 1);
            }
        }
    }
    Ok(body)
}

/// Goes on when the argument, all 64 bits of it, is as the operator says; else out.
fn condition(argument: &Argument) -> Vec<Instruction> {
    let at = ARGUMENTS + u32::from(argument.index) * 8;
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let (high, low) = halves(argument.value);
    let loads = |half: u32| plain(LOAD, at + half);
    match argument.op {
        Operator::Equal => vec![
            loads(4),
            jump(JUMP_EQUAL, high, Jump::Over(0), Jump::Out),
            loads(0),
            jump(JUMP_EQUAL, low, Jump::Over(0), Jump::Out),
        ],
        Operator::NotEqual => vec![
            loads(4),
            jump(JUMP_EQUAL, high, Jump::Over(0), Jump::Over(2)),
            loads(0),
            jump(JUMP_EQUAL, low, Jump::Out, Jump::Over(0)),
        ],
        Operator::MaskedEqual => {
            let (wanted_high, wanted_low) = halves(argument.value_two);
            vec![
                loads(4),
                plain(AND, high),
                jump(JUMP_EQUAL, wanted_high, Jump::Over(0), Jump::Out),
                loads(0),
                plain(AND, low),
                jump(JUMP_EQUAL, wanted_low, Jump::Over(0), Jump::Out),
            ]
        }
        // A larger high half decides; an equal one leaves it to the low half.
        Operator::Greater | Operator::GreaterOrEqual => {
            let code = if argument.op == Operator::Greater { JUMP_GREATER } else { JUMP_GREATER_OR_EQUAL };
            vec![
                loads(4),
                jump(JUMP_GREATER, high, Jump::Over(3), Jump::Over(0)),
                jump(JUMP_EQUAL, high, Jump::Over(0), Jump::Out),
                loads(0),
                jump(code, low, Jump::Over(0), Jump::Out),
            ]
        }
        Operator::Less | Operator::LessOrEqual => {
            let code = if argument.op == Operator::Less { JUMP_GREATER_OR_EQUAL } else { JUMP_GREATER };
            vec![
                loads(4),
                jump(JUMP_GREATER, high, Jump::Out, Jump::Over(0)),
                jump(JUMP_EQUAL, high, Jump::Over(0), Jump::Over(2)),
                loads(0),
                jump(code, low, Jump::Out, Jump::Over(0)),
            ]
        }
    }
}

fn encode(program: &[Instruction]) -> Result<Filter, String> {
    if program.len() > INSTRUCTIONS_MAX {
        return Err(format!("the profile takes {} instructions; the kernel takes {INSTRUCTIONS_MAX}", program.len()));
    }
    let offset = |jump: Jump| match jump {
        Jump::Over(count) => u8::try_from(count).map_err(|_| "a rule has too many conditions".to_owned()),
        Jump::Out => Ok(0),
    };
    let words = program.iter().map(|instruction| {
        let [a, b] = instruction.code.to_ne_bytes();
        let [e, f, g, h] = instruction.value.to_ne_bytes();
        Ok(u64::from_ne_bytes([a, b, offset(instruction.yes)?, offset(instruction.no)?, e, f, g, h]))
    });
    Ok(Filter { instructions: words.collect::<Result<_, String>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would make of the filter.
    fn answer(filter: &Filter, number: i64, arguments: [u64; 6]) -> u32 {
        let (mut at, mut value) = (0, 0u32);
        loop {
            let [a, b, yes, no, e, f, g, h] = filter.instructions[at].to_ne_bytes();
            let (code, k) = (u16::from_ne_bytes([a, b]), u32::from_ne_bytes([e, f, g, h]));
            at += 1;
            let mut jump = |holds: bool| at += usize::from(if holds { yes } else { no });
            match code {
                LOAD if k == NUMBER => value = number as u32,
                LOAD if k == ARCH => value = ARCHITECTURE.1,
                LOAD => {
                    let argument = arguments[(k - ARGUMENTS) as usize / 8];
                    value = if k % 8 == 0 { argument as u32 } else { (argument >> 32) as u32 };
                }
                AND => value &= k,
                JUMP_EQUAL => jump(value == k),
                JUMP_GREATER => jump(value > k),
                JUMP_GREATER_OR_EQUAL => jump(value >= k),
                RETURN => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn check(profile: &str, capabilities: u64, cases: &[(&str, u64, u32)]) {
        let filter = filter(profile, capabilities).unwrap();
        for (name, argument, expected) in cases {
            let found = answer(&filter, number(name).unwrap(), [*argument, 0, 0, 0, 0, 0]);
            assert_eq!(found, *expected, "{name}({argument:#x})");
        }
    }

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;

    #[test]
    fn the_first_rule_that_holds_decides() {
        let profile = r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64"],"syscalls":[
            {"names":["read","no_such_call"],"action":"SCMP_ACT_ALLOW"},
            {"names":["mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":38},
            {"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
            {"names":["kill"],"action":"SCMP_ACT_KILL_PROCESS"}]}"#;
        let kill = libc::SECCOMP_RET_KILL_PROCESS;
        let no_call = libc::SECCOMP_RET_ERRNO | 38;
        check(profile, 0, &[("read", 0, ALLOW), ("write", 0, REFUSE), ("mount", 0, REFUSE), ("mkdirat", 0, no_call)]);
        check(profile, bit("SYS_ADMIN").unwrap(), &[("mount", 0, ALLOW), ("kill", 0, kill)]);
    }

    #[test]
    fn arguments_are_compared_in_full() {
        let of = |op: &str, value: u64, two: u64| {
            format!(
                r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"names":["read"],"action":"SCMP_ACT_ALLOW",
                "args":[{{"index":0,"value":{value},"valueTwo":{two},"op":"{op}"}}]}}]}}"#
            )
        };
        let big = 0x1_0000_0005;
        check(&of("SCMP_CMP_EQ", big, 0), 0, &[("read", big, ALLOW), ("read", 5, REFUSE), ("read", big + 1, REFUSE)]);
        check(&of("SCMP_CMP_NE", big, 0), 0, &[("read", big, REFUSE), ("read", 5, ALLOW), ("read", big + 1, ALLOW)]);
        check(&of("SCMP_CMP_GT", big, 0), 0, &[("read", big, REFUSE), ("read", 9, REFUSE), ("read", big + 1, ALLOW)]);
        check(
            &of("SCMP_CMP_GE", big, 0),
            0,
            &[("read", big, ALLOW), ("read", 0x2_0000_0000, ALLOW), ("read", 6, REFUSE)],
        );
        check(
            &of("SCMP_CMP_LT", big, 0),
            0,
            &[("read", big, REFUSE), ("read", 9, ALLOW), ("read", 0x2_0000_0000, REFUSE)],
        );
        check(&of("SCMP_CMP_LE", big, 0), 0, &[("read", big, ALLOW), ("read", big + 1, REFUSE), ("read", 9, ALLOW)]);
        check(&of("SCMP_CMP_MASKED_EQ", 0xf0, 0x10), 0, &[("read", 0x1f, ALLOW), ("read", 0x2f, REFUSE)]);
    }

    #[test]
    fn what_is_no_profile_is_told() {
        assert!(filter("{", 0).is_err());
        assert!(filter(r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#, 0).unwrap_err().contains("SCMP_ACT_NOTIFY"));
    }
}
