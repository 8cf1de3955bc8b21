//! Which devices a group may use: rules, and the program that enforces them in version 2.

use std::fmt;
use std::path::Path;

use super::sys::{self, Instruction};
use super::{Result, failed};

/// What may be done to a device, as a set of bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    /// `b`, `c`, or `a` for both.
    pub kind: char,
    /// Major number; any when absent.
    pub major: Option<u32>,
    /// Minor number; any when absent.
    pub minor: Option<u32>,
    /// Whether it may be read.
    pub read: bool,
    /// Whether it may be written.
    pub write: bool,
    /// Whether its file may be made.
    pub mknod: bool,
}

impl DeviceRule {
    /// A rule for one character device that may be used in every way.
    pub const fn character(major: u32, minor: Option<u32>) -> Self {
        DeviceRule { kind: 'c', major: Some(major), minor, read: true, write: true, mknod: true }
    }

    /// Everything.
    pub const ALL: DeviceRule =
        DeviceRule { kind: 'a', major: None, minor: None, read: true, write: true, mknod: true };
}

impl fmt::Display for DeviceRule {
    /// As version 1's files take it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        write!(formatter, "{} {}:{} ", self.kind, number(self.major), number(self.minor))?;
        let accesses = [(self.read, 'r'), (self.write, 'w'), (self.mknod, 'm')];
        accesses.iter().filter(|(allowed, _)| *allowed).try_for_each(|(_, letter)| write!(formatter, "{letter}"))
    }
}

const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;

/// Instructions of the kernel's virtual machine that are used here.
mod op {
    pub(super) const LOAD_WORD: u8 = 0x61;
    pub(super) const MOVE_32: u8 = 0xbc;
    pub(super) const MOVE_CONSTANT: u8 = 0xb7;
    pub(super) const AND_CONSTANT_32: u8 = 0x54;
    pub(super) const SHIFT_RIGHT_32: u8 = 0x74;
    pub(super) const JUMP_NOT_EQUAL: u8 = 0x55;
    pub(super) const EXIT: u8 = 0x95;
}

/// A program that answers 1 for what `rules` allow and 0 for all else. It gets `struct bpf_cgroup_dev_ctx`: access
/// type (kind in the low half, access in the high half), major, minor.
pub(super) fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let instruction =
        |code, destination, source, offset, constant| Instruction::new(code, destination, source, offset, constant);
    let mut program = vec![
        instruction(op::LOAD_WORD, 2, 1, 0, 0),
        instruction(op::MOVE_32, 3, 2, 0, 0),
        instruction(op::AND_CONSTANT_32, 2, 0, 0, 0xffff),
        instruction(op::SHIFT_RIGHT_32, 3, 0, 0, 16),
        instruction(op::LOAD_WORD, 4, 1, 4, 0),
        instruction(op::LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let mut tests = Vec::new();
        match rule.kind {
            'b' => tests.push((2, BLOCK)),
            'c' => tests.push((2, CHARACTER)),
            _ => {}
        }
        tests.extend(rule.major.map(|major| (4, major as i32)));
        tests.extend(rule.minor.map(|minor| (5, minor as i32)));
        let accesses = [(rule.mknod, MKNOD), (rule.read, READ), (rule.write, WRITE)];
        let forbidden = accesses.iter().filter(|(allowed, _)| !allowed).fold(0, |bits, (_, access)| bits | access);
        // Each failed test jumps over the rest of the rule; the rest is the other tests, the access test (three) and
        // the answer (two).
        let access_length = if forbidden == 0 { 0 } else { 3 };
        for (index, (register, value)) in tests.iter().enumerate() {
            let rest = tests.len() - index - 1 + access_length + 2;
            program.push(instruction(op::JUMP_NOT_EQUAL, *register, 0, rest as i16, *value));
        }
        if forbidden != 0 {
            program.push(instruction(op::MOVE_32, 1, 3, 0, 0));
            program.push(instruction(op::AND_CONSTANT_32, 1, 0, 0, forbidden));
            program.push(instruction(op::JUMP_NOT_EQUAL, 1, 0, 2, 0));
        }
        program.push(instruction(op::MOVE_CONSTANT, 0, 0, 0, 1));
        program.push(instruction(op::EXIT, 0, 0, 0, 0));
    }
    program.push(instruction(op::MOVE_CONSTANT, 0, 0, 0, 0));
    program.push(instruction(op::EXIT, 0, 0, 0, 0));
    program
}

/// Enforces `rules` on the group of version 2 in `folder`.
pub(super) fn attach(folder: &Path, rules: &[DeviceRule]) -> Result<()> {
    let group = std::fs::File::open(folder).map_err(failed("open", folder))?;
    sys::attach_device_program(&group, &program(rules)).map_err(failed("restrict devices of", folder))
}
