"""What a project's PostgreSQL database holds besides rows, as its catalogue tells it."""

from collections import defaultdict
from dataclasses import dataclass

from server.migration import target
from server.migration.project_leftovers import Leftover

# What an extension made goes with the extension.
_OWN = (
    "NOT EXISTS (SELECT FROM pg_depend WHERE pg_depend.objid = {0}.oid AND deptype = 'e' "
    "AND classid = '{1}'::regclass)"
)
_TABLES = f"""
    SELECT c.oid::bigint, c.relname::text, c.relkind = 'r' AND EXISTS (
        SELECT FROM pg_inherits WHERE inhparent = c.oid)
    FROM pg_class c WHERE c.relnamespace = to_regnamespace('public') AND c.relkind IN ('r', 'p')
        AND NOT c.relispartition AND {_OWN.format("c", "pg_class")} ORDER BY c.oid
"""
_COLUMNS = """
    SELECT a.attrelid::bigint, a.attname::text, a.attnotnull, t.typtype = 'd',
        format_type(a.atttypid, a.atttypmod), format_type(b.oid, NULL),
        format_type(b.oid, CASE WHEN t.typtype = 'd' THEN b.typmod ELSE a.atttypmod END),
        a.attidentity <> '', a.attgenerated <> '', pg_get_expr(d.adbin, d.adrelid),
        coalesce(pg_get_serial_sequence(c.oid::regclass::text, a.attname)::regclass::text, (
            SELECT s.oid::regclass::text FROM pg_depend JOIN pg_class s ON s.oid = refobjid
            WHERE classid = 'pg_attrdef'::regclass AND objid = d.oid AND s.relkind = 'S')),
        (SELECT collname::text FROM pg_collation o WHERE o.oid = a.attcollation
            AND a.attcollation <> t.typcollation)
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum,
    LATERAL (WITH RECURSIVE base (oid, typtype, typmod) AS (
            SELECT t.oid, t.typtype, -1
            UNION ALL
            SELECT u.oid, u.typtype, CASE WHEN v.typtypmod = -1 THEN base.typmod
                ELSE v.typtypmod END
            FROM base JOIN pg_type v ON v.oid = base.oid
            JOIN pg_type u ON u.oid = v.typbasetype WHERE base.typtype = 'd')
        SELECT base.oid, base.typmod FROM base WHERE base.typtype <> 'd') b
    WHERE c.relnamespace = to_regnamespace('public') AND c.relkind IN ('r', 'p', 'v')
        AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attrelid, a.attnum
"""
_NAMES = """ARRAY(SELECT attname::text FROM unnest(k.{0}) WITH ORDINALITY u (num, ord)
    JOIN pg_attribute ON attrelid = k.{1} AND attnum = num ORDER BY ord)"""
_CONSTRAINTS = f"""
    SELECT k.conrelid::bigint, k.conname::text, k.contype::text,
        {_NAMES.format("conkey", "conrelid")}, k.confrelid::bigint,
        {_NAMES.format("confkey", "confrelid")}, k.confdeltype::text,
        k.confupdtype::text, k.condeferrable, k.condeferred, k.confdelsetcols IS NOT NULL,
        k.confmatchtype = 'f' AND array_length(k.conkey, 1) > 1,
        pg_get_expr(k.conbin, k.conrelid), pg_get_constraintdef(k.oid)
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
    WHERE k.connamespace = to_regnamespace('public') AND c.relkind IN ('r', 'p')
        AND NOT c.relispartition AND k.contype IN ('p', 'u', 'c', 'f', 'x') ORDER BY k.oid
"""
_INDEXES = """
    SELECT i.indrelid::bigint, c.relname::text, m.amname IN ('btree', 'hash') AND i.indisvalid
            AND i.indnkeyatts = i.indnatts AND NOT i.indnullsnotdistinct, i.indisunique,
        ARRAY(SELECT attname::text FROM generate_series(0, i.indnkeyatts - 1) n
            LEFT JOIN pg_attribute ON attrelid = i.indrelid AND attnum = i.indkey[n]
            AND attnum > 0 ORDER BY n),
        ARRAY(SELECT pg_get_indexdef(i.indexrelid, n, false)
            FROM generate_series(1, i.indnkeyatts) n ORDER BY n),
        ARRAY(SELECT i.indoption[n] & 1 = 1 FROM generate_series(0, i.indnkeyatts - 1) n
            ORDER BY n),
        pg_get_expr(i.indpred, i.indrelid), pg_get_indexdef(i.indexrelid)
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
    JOIN pg_class t ON t.oid = i.indrelid
    WHERE t.relnamespace = to_regnamespace('public') AND t.relkind IN ('r', 'p')
        AND NOT t.relispartition
        AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid
            AND conrelid = i.indrelid)
    ORDER BY i.indexrelid
"""
_VIEWS = f"""
    SELECT c.oid::bigint, c.relname::text, pg_get_viewdef(c.oid, false) FROM pg_class c
    WHERE c.relnamespace = to_regnamespace('public') AND c.relkind = 'v'
        AND {_OWN.format("c", "pg_class")} ORDER BY c.oid
"""
_OTHERS = f"""
    SELECT 'materialized view', relname::text, pg_get_viewdef(c.oid), 'SQLite has no such views'
        FROM pg_class c WHERE relkind = 'm' AND relnamespace = to_regnamespace('public')
    UNION ALL SELECT 'foreign table', relname::text, '', 'its rows are another server''s'
        FROM pg_class WHERE relkind = 'f' AND relnamespace = to_regnamespace('public')
    UNION ALL SELECT 'sequence', c.relname::text, format('start %s, step %s, last value %s',
            seqstart, seqincrement, coalesce(pg_sequence_last_value(c.oid)::text, 'none')),
            'SQLite has no sequences'
        FROM pg_class c JOIN pg_sequence ON seqrelid = c.oid
        WHERE c.relnamespace = to_regnamespace('public') AND NOT EXISTS (SELECT FROM pg_depend
            WHERE (classid = 'pg_class'::regclass AND objid = c.oid AND deptype IN ('a', 'i'))
            OR (classid = 'pg_attrdef'::regclass AND refobjid = c.oid))
    UNION ALL SELECT 'partition', relname::text, coalesce(pg_get_expr(relpartbound, c.oid), ''),
            'SQLite has no partitions; its rows are in the table that it is a part of'
        FROM pg_class c WHERE relispartition AND relkind IN ('r', 'p')
            AND relnamespace = to_regnamespace('public')
    UNION ALL SELECT 'inheritance', inhrelid::regclass::text, 'INHERITS (' || inhparent::regclass
            || ')', 'SQLite has no inheritance; each table keeps its own rows'
        FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid AND c.relkind = 'r'
            AND NOT relispartition WHERE relnamespace = to_regnamespace('public')
    UNION ALL SELECT 'trigger', tgname::text, pg_get_triggerdef(t.oid),
            'SQLite''s triggers are another language'
        FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
        WHERE NOT tgisinternal AND tgparentid = 0 AND relnamespace = to_regnamespace('public')
    UNION ALL SELECT 'rule', rulename::text, pg_get_ruledef(r.oid), 'SQLite has no rules'
        FROM pg_rewrite r JOIN pg_class c ON c.oid = ev_class
        WHERE rulename <> '_RETURN' AND relnamespace = to_regnamespace('public')
    UNION ALL SELECT 'policy', polname::text, coalesce(pg_get_expr(polqual, polrelid), '')
            || coalesce(' WITH CHECK ' || pg_get_expr(polwithcheck, polrelid), ''),
            'whoever may read the file may read all rows'
        FROM pg_policy JOIN pg_class c ON c.oid = polrelid
        WHERE relnamespace = to_regnamespace('public')
    UNION ALL SELECT 'function', p.oid::regprocedure::text,
            CASE WHEN prokind = 'a' THEN '' ELSE pg_get_functiondef(p.oid) END,
            'SQLite keeps no functions'
        FROM pg_proc p WHERE pronamespace = to_regnamespace('public')
            AND {_OWN.format("p", "pg_proc")}
    UNION ALL SELECT 'type', typname::text, coalesce((SELECT 'ENUM (' || string_agg(
            quote_literal(enumlabel), ', ' ORDER BY enumsortorder) || ')' FROM pg_enum
            WHERE enumtypid = t.oid), CASE WHEN typtype = 'd'
            THEN 'DOMAIN ' || format_type(typbasetype, typtypmod) || coalesce(' ' || (
                SELECT string_agg(pg_get_constraintdef(k.oid), ' ') FROM pg_constraint k
                WHERE contypid = t.oid), '') ELSE '' END), 'SQLite has no types of one''s own'
        FROM pg_type t WHERE typnamespace = to_regnamespace('public') AND typelem = 0
            AND (typtype IN ('e', 'd', 'r') OR (typtype = 'c' AND EXISTS (SELECT FROM pg_class
                WHERE oid = typrelid AND relkind = 'c'))) AND {_OWN.format("t", "pg_type")}
    UNION ALL SELECT 'extension', extname::text, extversion, 'SQLite has not this extension'
        FROM pg_extension WHERE extname <> 'plpgsql'
    UNION ALL SELECT 'table', nspname || '.' || relname, '', 'only the schema public moves'
        FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
        WHERE relkind IN ('r', 'p', 'v', 'm') AND nspname NOT IN ('public', 'information_schema')
            AND nspname NOT LIKE 'pg\\_%%'
    UNION ALL SELECT 'comment', objoid::regclass::text || coalesce('.' || attname, ''),
            description, 'SQLite has no comments'
        FROM pg_description JOIN pg_class c ON c.oid = objoid
        LEFT JOIN pg_attribute a ON attrelid = objoid AND attnum = objsubid AND attnum > 0
        WHERE classoid = 'pg_class'::regclass AND relnamespace = to_regnamespace('public')
    UNION ALL SELECT 'large objects', count(*)::text, '', 'SQLite has no large objects'
        FROM pg_largeobject_metadata HAVING count(*) > 0
    ORDER BY 1, 2, 3
"""
_ENCODING = "SELECT getdatabaseencoding()"
_BYTEWISE = """
    SELECT datcollate IN ('C', 'POSIX', 'C.UTF-8', 'C.utf8') AND datlocprovider = 'c'
    FROM pg_database WHERE datname = current_database()
"""


@dataclass(frozen=True)
class CatalogColumn:
    """A column; `base` is its type under its domains, `full` the same with its size."""

    name: str
    not_null: bool
    domain: bool
    declared: str
    base: str
    full: str
    identity: bool
    generated: bool
    default: str | None
    sequence: str | None
    collation: str | None


@dataclass(frozen=True)
class CatalogConstraint:
    """A constraint; `kind` is p, u, c, f or x, as pg_constraint has it."""

    name: str
    kind: str
    columns: tuple[str, ...]
    parent: int
    references: tuple[str, ...]
    on_delete: str
    on_update: str
    deferrable: bool
    deferred: bool
    sets_some: bool
    match_full: bool
    condition: str | None
    text: str


@dataclass(frozen=True)
class CatalogIndex:
    """An index that no constraint made; `plain` unless it does what SQLite's can't."""

    name: str
    plain: bool
    unique: bool
    columns: tuple[str | None, ...]
    parts: tuple[str, ...]
    descending: tuple[bool, ...]
    condition: str | None
    text: str


@dataclass(frozen=True)
class CatalogTable:
    """A table; `inherited` when other tables' rows would be read with its own."""

    number: int
    name: str
    inherited: bool
    columns: tuple[CatalogColumn, ...]
    constraints: tuple[CatalogConstraint, ...]
    indexes: tuple[CatalogIndex, ...]

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of the primary key in its order."""
        found = (c.columns for c in self.constraints if c.kind == "p")
        return next(found, ())


@dataclass(frozen=True)
class CatalogView:
    """A view with the names of its columns."""

    name: str
    sql: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Catalog:
    """All of it; `bytewise` when texts are in the order of their bytes."""

    tables: tuple[CatalogTable, ...]
    views: tuple[CatalogView, ...]
    others: tuple[Leftover, ...]
    bytewise: bool
    encoding: str


def read_catalog(conn: target.Connection) -> Catalog:
    """Read it within the connection's transaction, whose search path is `public`."""
    columns: dict[int, list[CatalogColumn]] = defaultdict(list)
    for number, *column in target.rows(conn, _COLUMNS):
        columns[number].append(CatalogColumn(*column))
    constraints: dict[int, list[CatalogConstraint]] = defaultdict(list)
    for number, name, kind, names, parent, to, *rest in target.rows(conn, _CONSTRAINTS):
        constraint = CatalogConstraint(name, kind, tuple(names), parent, tuple(to), *rest)
        constraints[number].append(constraint)
    indexes: dict[int, list[CatalogIndex]] = defaultdict(list)
    for number, name, plain, unique, names, parts, descending, *rest in target.rows(conn, _INDEXES):
        index = CatalogIndex(
            name, plain, unique, tuple(names), tuple(parts), tuple(descending), *rest
        )
        indexes[number].append(index)
    tables = tuple(
        CatalogTable(
            number,
            name,
            inherited,
            tuple(columns[number]),
            tuple(constraints[number]),
            tuple(indexes[number]),
        )
        for number, name, inherited in target.rows(conn, _TABLES)
    )
    views = tuple(
        CatalogView(name, sql, tuple(column.name for column in columns[number]))
        for number, name, sql in target.rows(conn, _VIEWS)
    )
    others = tuple(
        Leftover(kind, name, sql or "", "").because(reason)
        for kind, name, sql, reason in target.rows(conn, _OTHERS)
    )
    bytewise, encoding = target.value(conn, _BYTEWISE), target.value(conn, _ENCODING)
    return Catalog(tables, views, others, bool(bytewise), encoding)
