#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Every message of the product: is it in the manual, and has a test heard it?

  messages.py manual            messages of the code that the manual lacks
  messages.py provoked LOG...   messages of code and manual that no LOG has

Messages of the code are the texts that overlay and patches give to error_setg()
and the like; those of the manual are in the first column of its tables.
Prints what is missing, and then fails.
"""
import glob
import json
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGE = 'docs/system/devices/vfio-iommufd.rst'
CALL = re.compile(r'\b(?:error_(?:setg\w*|report\w*|prepend)|warn_report\w*|'
                  r'info_report|g_strdup(?:_printf)?|g_string_(?:new|append)\w*)\(')
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[()]')
FORMAT = re.compile(r'%[-0-9.]*l*[a-zA-Z]|%(?!\w)')
# what stands for something else in the manual
BLANK = re.compile(r'\b(?:0xFIRST|0xLAST|0xADDRESS|DDDD:BB:DD\.F|REASON|REGION|DEVICE|'
                   r'WHAT|PATH|NODE|NAME|PID|FD|ID|N)\b|iommufd0|\.\.\.')

# No test can hear these: the beginning of the message, and the reason.
UNHEARD = {
    'cannot disable discarding of RAM':
        'nothing in QEMU 7.2 calls ram_block_discard_require()',
    'guest IOMMU maps to address space':
        'none of its IOMMUs translates to anything but system memory',
    'which device? Give':
        'for vfio-ap, whose bus is there with KVM on s390x only',
    'no such host device %s':
        'the same',
    'no such host device PATH':
        'the same',
}


def read(path):
    with open(os.path.join(ROOT, path)) as f:
        return f.read()


def code():
    """(file, text with what printf fills in as %s)"""
    sources = {f: read(f) for f in glob.glob('backends/*.c', root_dir=ROOT) +
               glob.glob('hw/vfio/*.c', root_dir=ROOT)}
    for patch in glob.glob('patches/*.patch', root_dir=ROOT):
        sources[patch] = '\n'.join(re.findall(r'^\+(?!\+\+)(.*)', read(patch), re.M))
    for name, source in sorted(sources.items()):
        source = source.replace('IOMMUFD_NODE', '"/dev/iommu"')
        # adjacent strings are one, with a macro like PRIu64 between them too
        source = re.sub(r'"\s+(?:(?:PRI|HWADDR_PRI)\w+\s+)?"', '', source)
        for start in (m.end() for m in CALL.finditer(source)):
            depth = 1
            for t in TOKEN.findall(source, start):
                depth += (t == '(') - (t == ')')
                if not depth:
                    break
                text = re.sub(r'^(vfio( %s)?|iommufd): ', '', t[1:-1]).strip()
                if not text.startswith('/') and \
                        re.search(r'[a-z]{4}.* | .*[a-z]{4}', text):
                    yield name, text


def manual():
    """(page, text with what differs in capitals)"""
    tables = read(PAGE).split('\nMessages\n~~~~', 1)[1]
    for row in re.findall(r'^   \* - (.*?)^     - ', tables, re.M | re.S):
        for text in re.findall(r'``(.*?)``', row, re.S):
            yield PAGE, ' '.join(text.split())


def pattern(text, blank):
    return '.{0,60}?'.join(map(re.escape, blank.split(text)))


def not_in_manual():
    page = ' '.join(read(PAGE).replace('`', '').split())
    texts = list(code())
    assert len(texts) > 50, 'too few messages in the code: is the search in order?'
    return [f'{name}: {text}' for name, text in texts
            if not re.search(pattern(text, FORMAT), page)]


def unheard(logs):
    heard = '\n'.join(logs)
    texts = {(name, text): pattern(text, FORMAT) for name, text in code()}
    texts.update({(name, text): pattern(text, BLANK) for name, text in manual()})
    assert len(texts) > 100, 'too few messages: is the search in order?'
    missing = []
    for (name, text), p in texts.items():
        excused = text.startswith(tuple(UNHEARD))
        if bool(re.search(p, heard)) == excused:
            missing.append(f'{name}: {text}' + ' was heard: why is it in UNHEARD?' * excused)
    return missing


def test_output(path):
    """What the tests of a testlog.json of meson said; else the file's text."""
    with open(path, errors='replace') as f:
        if not path.endswith('.json'):
            return f.read()
        return '\n'.join(t.get('stdout', '') + t.get('stderr', '')
                         for t in map(json.loads, f))


if __name__ == '__main__':
    if sys.argv[1] == 'manual':
        missing = not_in_manual()
    else:
        missing = unheard(map(test_output, sys.argv[2:]))
    print('\n'.join(missing))
    sys.exit(bool(missing))
