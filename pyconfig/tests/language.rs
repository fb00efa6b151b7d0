//! The language, against CPython 3.11: what its `repr` of every expression is.

use oc_pyconfig::{Dict, Host, Limits, Module, Name, Place, Value, evaluate};
use std::{collections::HashMap, time::Duration};

/// Files by module.
#[derive(Default)]
struct Files(HashMap<&'static str, &'static str>);

impl Host for Files {
    fn module(&self, _file: &str, _level: u32, module: &str) -> Result<Module, String> {
        let source = self.0.get(module).ok_or_else(|| format!("there is no {module}"))?;
        Ok(Module::File { name: format!("{module}.py"), source: (*source).to_owned() })
    }
}

fn value(source: &str, variable: &str) -> Value {
    let evaluated = evaluate("x.py", source, &Files::default(), Limits::default());
    let evaluated = evaluated.unwrap_or_else(|error| panic!("{source}: {error}"));
    evaluated.get(variable).unwrap_or_else(|| panic!("{source} sets no {variable}")).clone()
}

fn error(source: &str) -> String {
    evaluate("x.py", source, &Files::default(), Limits::default()).unwrap_err().to_string()
}

fn text(text: &str) -> Value {
    Value::Str(text.into())
}

fn ints(items: &[i64]) -> Value {
    Value::List(items.iter().copied().map(Value::Int).collect())
}

#[test]
fn expressions_are_pythons() {
    for (expression, wanted) in [
        (r"1 + 2 * 3 ** 2", r"19"),
        (r"7 // 2, -7 // 2, 7 // -2, -7 // -2, 7 % -3, -7 % 3", r"(3, -4, -4, 3, -2, 2)"),
        (r"7 / 2, 7.5 // 2, -7.5 % 2, 2 ** -1", r"(3.5, 3.0, 0.5, 0.5)"),
        (
            r"1_000, 0x1f, 0b101, 1e3, 1e22, 1e-7, 0.1 + 0.2",
            r"(1000, 31, 5, 1000.0, 1e+22, 1e-07, 0.30000000000000004)",
        ),
        (r"True + 1, not 0, None is None, 1 is not None", r"(2, True, True, True)"),
        (r"1 < 2 < 3, 1 < 3 < 2, 'a' < 'b', (1, 2) < (1, 3)", r"(True, False, True, True)"),
        (r"[1, 2] == [1, 2], {1: 2} == {1.0: 2}, 'a' in 'abc', 3 not in [1]", r"(True, True, True, True)"),
        (r"1 and 0 or 'x', [] or {} or ()", r"('x', ())"),
        (r#"'a' 'b' f'{1 + 1}' "c""#, r"'ab2c'"),
        (
            r#"f'{3.14159:.2f}|{42:>5}|{42:<5}|{42:05d}|{"x":^5}|{"x":*>3}|{1234567:,}|{0.5:.1%}'"#,
            r"'3.14|   42|42   |00042|  x  |**x|1,234,567|50.0%'",
        ),
        (r#"f'{"q"!r} {{}} {[1, "a"]} {None}'"#, r#""'q' {} [1, 'a'] None""#),
        (r"f'{7:{4}d}|{-7:05}|{7:+d}|{255:x}'", r"'   7|-0007|+7|ff'"),
        (r"'%s-%d-%05.1f-%%-%r' % ('a', 3, 2.25, 'b')", r#""a-3-002.2-%-'b'""#),
        (r"'%(a)s %(b)03d' % {'a': 1, 'b': 2}", r"'1 002'"),
        (
            r"'{} {1[k]} {n:>3}'.format(0, {'k': 'v'}, n=5) if False else '{0} {1[k]} {n:>3}'.format(0, {'k': 'v'}, n=5)",
            r"'0 v   5'",
        ),
        (
            r"'a,b,,c'.split(','), ' a b  c '.split(), 'a-b-c'.rsplit('-', 1), 'a-b'.partition('-')",
            r"(['a', 'b', '', 'c'], ['a', 'b', 'c'], ['a-b', 'c'], ('a', '-', 'b'))",
        ),
        (
            r"'  x '.strip(), 'xxaxx'.strip('x'), 'abc'.replace('b', 'BB'), 'aXb'.lower(), 'ab cd'.title()",
            r"('x', 'a', 'aBBc', 'axb', 'Ab Cd')",
        ),
        (
            r"'-'.join(['a', 'b']), 'abc'.startswith(('x', 'a')), 'abc'.find('z'), 'abcabc'.count('bc'), '7'.zfill(3)",
            r"('a-b', True, -1, 2, '007')",
        ),
        (
            r"'abc'[0], 'abc'[-1], 'abc'[::-1], 'abcdef'[1:5:2], [1, 2, 3][:-1], (1, 2, 3)[1:]",
            r"('a', 'c', 'cba', 'bd', [1, 2], (2, 3))",
        ),
        (r"'答案'.upper(), len('答案'), '答案'[1], 'a\tb\n\\'", r"('答案', 2, '案', 'a\tb\n\\')"),
        (r#""it's", 'say "x"', 'it\'s "x"'"#, r#"("it's", 'say "x"', 'it\'s "x"')"#),
        (
            r"[x * 2 for x in range(5) if x % 2], {x: y for x, y in zip('ab', [1, 2])}, sorted({3, 1, 2})",
            r"([2, 6], {'a': 1, 'b': 2}, [1, 2, 3])",
        ),
        (
            r"[(x, y) for x in range(2) for y in 'ab'], [[y for y in range(x)] for x in range(3)]",
            r"([(0, 'a'), (0, 'b'), (1, 'a'), (1, 'b')], [[], [0], [0, 1]])",
        ),
        (
            r"sum([1, 2, 3]), sum([[1], [2, 3]], []), sum(x for x in range(4)), max(3, 1), min([2, 1]), max(['a', 'bbb'], key=len)",
            r"(6, [1, 2, 3], 6, 3, 1, 'bbb')",
        ),
        (
            r"list(range(10, 0, -3)), list(enumerate('ab', 1)), list(zip([1, 2], 'ab', (True, False))), list(reversed([1, 2]))",
            r"([10, 7, 4, 1], [(1, 'a'), (2, 'b')], [(1, 'a', True), (2, 'b', False)], [2, 1])",
        ),
        (
            r"sorted([3, 1, 2], reverse=True), sorted('bca'), sorted([(1, 'b'), (0, 'a')], key=lambda p: p[1])",
            r"([3, 2, 1], ['a', 'b', 'c'], [(0, 'a'), (1, 'b')])",
        ),
        (r"any([]), all([]), any(x > 2 for x in [1, 3]), all([1, 0])", r"(False, True, True, False)"),
        (r"list(map(lambda x, y: x + y, [1, 2], [3, 4])), list(filter(None, [0, 1, '', 'a']))", r"([4, 6], [1, 'a'])"),
        (
            r"{'a': 1, **{'b': 2}, 'a': 3}, [*range(2), *'ab'], (1, *[2])",
            r"({'a': 3, 'b': 2}, [0, 1, 'a', 'b'], (1, 2))",
        ),
        (
            r"dict(a=1, **{'b': 2}), dict([('x', 1)]), dict({'a': 1}, b=2), {'a': 1} | {'b': 2}",
            r"({'a': 1, 'b': 2}, {'x': 1}, {'a': 1, 'b': 2}, {'a': 1, 'b': 2})",
        ),
        (
            r"{'a': 1}.get('b'), {'a': 1}.get('b', 2), list({'a': 1, 'b': 2}.items()), list({'a': 1}.keys()), list({'a': 1}.values())",
            r"(None, 2, [('a', 1), ('b', 2)], ['a'], [1])",
        ),
        (
            r"int('12'), int(3.9), int(-3.9), float('1.5'), str(1.0), bool(''), round(2.5), round(3.14159, 2), abs(-2), divmod(7, 2)",
            r"(12, 3, -3, 1.5, '1.0', False, 2, 3.14, 2, (3, 1))",
        ),
        (
            r"isinstance(1, int), isinstance(True, int), isinstance('a', (int, str)), isinstance({}, dict), isinstance([], tuple)",
            r"(True, True, True, True, False)",
        ),
        (r"(lambda a, b=2, *c, d=4, **e: [a, b, c, d, e])(1, 3, 5, d=6, f=7)", r"[1, 3, (5,), 6, {'f': 7}]"),
        (r"1 if [] else 2, (x := 5) + x", r"(2, 10)"),
        (
            r"ord('a'), chr(97), repr('a'), str([1, 'b']), list('abc'), tuple([1]), ()",
            r#"(97, 'a', "'a'", "[1, 'b']", ['a', 'b', 'c'], (1,), ())"#,
        ),
        (r"3.0, 1e16, 123456789.0, 1e15, -0.0, 100.0", r"(3.0, 1e+16, 123456789.0, 1000000000000000.0, -0.0, 100.0)"),
        (r"'a' * 3, [0] * 2, 2 * (1,), 'ab' + 'cd', [1] + [2]", r"('aaa', [0, 0], (1, 1), 'abcd', [1, 2])"),
        (r"next(x for x in [5, 6]), next(iter([]), 9), list(dict.fromkeys('aba'))", r"(5, 9, ['a', 'b'])"),
        (
            r"{1: 'a', True: 'b', 1.0: 'c'}, {0: 1}, {None: 1}, {(1, 2): 3}",
            r"({1: 'c'}, {0: 1}, {None: 1}, {(1, 2): 3})",
        ),
        (
            r"'abc' 'def'[0:1], ~5, -(-3), +4, 6 & 3, 6 | 3, 6 ^ 3, 1 << 4, 256 >> 2",
            r"('a', -6, 3, 4, 2, 7, 5, 16, 64)",
        ),
        (
            r"'x'.ljust(3) + '|', 'x'.rjust(3, '0'), 'x'.center(4, '-'), 'a\nb'.splitlines(), 'abc'.removeprefix('a')",
            r"('x  |', '00x', '-x--', ['a', 'b'], 'bc')",
        ),
        (
            r"'Ab1'.isalpha(), '12'.isdigit(), 'AB'.isupper(), 'ab'.islower(), ' '.isspace()",
            r"(False, True, True, True, True)",
        ),
        (
            r"[1, 2, 3].index(2), [1, 1].count(1), (1, 2).index(2), [i for i, c in enumerate('abca') if c == 'a']",
            r"(1, 2, 1, [0, 3])",
        ),
        (r"'{:02d}:{:>4}'.format(3, 'a'), '{a}{b}'.format(a=1, b=2), '{{}}'.format()", r"('03:   a', '12', '{}')"),
    ] {
        let found = value(&format!("found = repr(({expression}))\n"), "found");
        assert_eq!(found, text(wanted), "{expression}");
    }
}

#[test]
fn statements_are_pythons() {
    for (source, wanted) in [
        (
            "a = []\nfor i in range(6):\n    if i == 1: continue\n    if i == 4: break\n    a.append(i)\nelse:\n    a = [9]\n",
            &[0, 2, 3][..],
        ),
        ("a = []\ni = 0\nwhile i < 3:\n    a += [i]\n    i += 1\nelse:\n    a.append(9)\n", &[0, 1, 2, 9]),
        (
            "def f(n, k=1):\n    if n == 0:\n        return [k]\n    elif n > 5:\n        return\n    else:\n        return [n] + f(n - 1, k=k)\na = f(3)\n",
            &[3, 2, 1, 1],
        ),
        (
            "def outer():\n    n = 1\n    def inner():\n        nonlocal n\n        n += 1\n        return n\n    return [inner(), inner()]\na = outer()\n",
            &[2, 3],
        ),
        ("n = 1\ndef f():\n    global n\n    n = 5\nf()\na = [n]\n", &[5]),
        ("b, (c, *d) = 1, (2, 3, 4)\na = [b, c, *d]\n", &[1, 2, 3, 4]),
        ("a = b = [1]\nb.append(2)\n", &[1, 2]),
        ("import copy\nb = [[1]]\na = dict(b=copy.deepcopy(b)).deepcopy()['b'][0]\nb[0].append(2)\n", &[1]),
        ("d = dict(x=1, y=2)\ndel d['x']\nd.z = 3\na = [d.y, d['z'], len(d)]\n", &[2, 3, 2]),
        (
            "x = 1\ny_datasets = [2]\nz_datasets = [3]\na = sum((v for k, v in locals().items() if k.endswith('_datasets')), [])\n",
            &[2, 3],
        ),
        ("fs = [lambda i=i: i for i in range(3)]\na = [f() for f in fs]\n", &[0, 1, 2]),
        ("a: list = [1]\nif a: a[0] = 7\nassert a\npass\n", &[7]),
        (
            "import math\nfrom functools import reduce\na = [int(math.sqrt(9)), math.floor(2.7), reduce(lambda x, y: x * y, [2, 3, 4])]\n",
            &[3, 2, 24],
        ),
        ("import os.path as osp\na = [len(osp.join('a', 'b')), len(osp.basename('x/yz'))]\n", &[3, 2]),
        (
            "a = [3, 1, 2]\na.sort(reverse=True)\na.insert(0, 9)\na.remove(1)\nb = a.pop()\na.extend([b, b])\n",
            &[9, 3, 2, 2],
        ),
    ] {
        assert_eq!(value(source, "a"), ints(wanted), "{source}");
    }
}

#[test]
fn variables_of_comprehensions_stay_inside() {
    let evaluated =
        evaluate("x.py", "a = [i for i in range(3)]\nb = {k: 1 for k in 'x'}\n", &Files::default(), Limits::default());
    let names: Vec<String> = evaluated.unwrap().variables.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["a", "b"]);
    assert!(error("a = [i for i in range(3)]\nb = i\n").starts_with("x.py:2: the name `i` is not defined"));
}

#[test]
fn imports_are_names_or_other_configurations() {
    let files = Files(HashMap::from([
        (
            "base",
            "from opencompass.models import M\nshared = [1]\nmodels = [dict(type=M, tags=shared), dict(type=M, tags=shared)]\n_p = 2\n__q = 3\n",
        ),
        ("values.deep", "a = 1\nb = 2\n"),
    ]));
    let source = "from mmengine.config import read_base\nwith read_base():\n    from .base import *\n    from .values.deep import a as renamed\n\
                  models[0]['tags'].append(renamed)\nimport torch\ndtype = torch.bfloat16\n";
    let evaluated = evaluate("x.py", source, &files, Limits::default()).unwrap();
    let Some(Value::List(models)) = evaluated.get("models") else { panic!("{evaluated:?}") };
    let [Value::Dict(first), Value::Dict(second)] = &models[..] else { panic!("{models:?}") };
    let name = Name { dotted: "opencompass.models.M".into(), place: Place { file: "base.py".into(), line: 1 } };
    assert_eq!(first.get("type"), Some(&Value::Name(name)));
    assert_eq!(first.place, Place { file: "base.py".into(), line: 3 });
    // mmengine copies what it imports, each reference apart.
    assert_eq!((first.get("tags"), second.get("tags")), (Some(&ints(&[1, 1])), Some(&ints(&[1]))));
    assert_eq!(evaluated.get("_p"), Some(&Value::Int(2)));
    assert_eq!((evaluated.get("__q"), evaluated.get("a"), evaluated.get("b")), (None, None, None));
    assert!(matches!(evaluated.get("dtype"), Some(Value::Name(name)) if name.dotted == "torch.bfloat16"));
}

#[test]
fn errors_have_their_place() {
    for (source, wanted) in [
        ("a = 1\n\nb = [\n    1,\n    c]\n", "x.py:5: the name `c` is not defined"),
        ("def f(x):\n    return x.y\n\nf(1)\n", "x.py:2: an int has no `y` in configurations"),
        ("a = 1 +\n", "x.py:1: this is not Python: Expected an expression"),
        ("'a' + 1\n", "x.py:1: `+` cannot join a str and an int"),
        ("[1][2]\n", "x.py:1: there is no item 2 among 1"),
        ("1 / 0\n", "x.py:1: division by zero"),
        ("f = lambda x: x\nf()\n", "x.py:2: <lambda>() lacks its argument `x`"),
        ("f = lambda x: x\nf(1, 2)\n", "x.py:2: <lambda>() takes fewer arguments"),
        ("f = lambda x: x\nf(1, x=2)\n", "x.py:2: <lambda>() got `x` twice"),
        ("f = lambda x: x\nf(1, y=2)\n", "x.py:2: <lambda>() has no parameter `y`"),
        ("a, b = 1, 2, 3\n", "x.py:1: 3 values for 2 names"),
        ("{[]: 1}\n", "x.py:1: a list cannot be a key"),
        ("'a' < 1\n", "x.py:1: a str and an int cannot be compared"),
        ("del a\n", "x.py:1: the name `a` is not defined"),
        ("len(1)\n", "x.py:1: len() does not take (an int)"),
        ("[].appendd(1)\n", "x.py:1: a list has no `appendd`"),
        ("try:\n    pass\nexcept Exception:\n    pass\n", "x.py:1: `try` blocks are not supported"),
        ("from .absent import x\n", "x.py:1: there is no absent"),
        ("async def f(): pass\n", "x.py:1: `async` functions"),
        ("def f():\n    yield 1\nf()\n", "x.py:2: `await` and `yield`"),
    ] {
        let found = error(source);
        assert!(found.starts_with(wanted), "{source:?}: {found}");
    }
}

#[test]
fn limits_can_be_set() {
    let limited =
        |source: &str, limits: Limits| evaluate("x.py", source, &Files::default(), limits).unwrap_err().to_string();
    let steps = Limits { steps: 1000, ..Limits::default() };
    assert!(limited("for i in range(10 ** 6): pass\n", steps).contains("more than 1000 steps"));
    let time = Limits { steps: u64::MAX, time: Duration::from_millis(50), ..Limits::default() };
    assert!(limited("while True: pass\n", time).contains("more than 50ms"));
    let memory = Limits { memory: 1 << 20, ..Limits::default() };
    assert!(limited("a = 'x' * (2 << 20)\n", memory).contains("more than 1 MiB of memory"));
    let source = Limits { source: 10, ..Limits::default() };
    assert!(limited("a = 1  # a comment\n", source).contains("at most 10 are read"));
    assert_eq!(
        value("a = {}\n", "a"),
        Value::Dict(Dict { entries: Vec::new(), place: Place { file: "x.py".into(), line: 1 } })
    );
}
