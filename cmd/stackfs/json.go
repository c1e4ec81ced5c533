package main

import (
	"encoding/json"
	"io"
	"slices"
	"strconv"
	"strings"
)

// textKeys are the values of a status file that are text even if they look
// like numbers.
const textKeys = " name kind state origin mode owner group namespace netns_name created "

// jsonStack makes the JSON object of a stack, which stackfs(8) describes:
// the keys of the file status, those below, numbers as numbers.
func jsonStack(s *stackInfo) map[string]any {
	object := map[string]any{}
	for _, l := range s.lines {
		if _, twice := object[l.Key]; l.Key != "" && !twice {
			object[l.Key] = jsonValue(l.Key, l.Value)
		}
	}
	object["mount"] = s.dir
	object["path"] = s.path()
	object["name"] = s.name
	object["accessible"] = s.accessible
	object["mode"] = s.octal()
	object["owner"] = s.owner()
	object["group"] = s.group()
	object["uid"] = s.uid
	object["gid"] = s.gid
	return object
}

// jsonValue gives a value its type. Families are a list.
func jsonValue(key, value string) any {
	switch {
	case key == "families":
		list := strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' })
		return slices.DeleteFunc(append([]string{}, list...), func(w string) bool { return w == "-" || w == "none" })
	case strings.Contains(textKeys, " "+key+" "):
		return value
	case value == "true" || value == "false":
		return value == "true"
	}
	if isNumber(value) {
		return json.Number(value)
	}
	return value
}

// isNumber tells whether value is a whole number as JSON writes it.
func isNumber(value string) bool {
	if n, err := strconv.ParseInt(value, 10, 64); err == nil {
		return strconv.FormatInt(n, 10) == value
	}
	n, err := strconv.ParseUint(value, 10, 64)
	return err == nil && strconv.FormatUint(n, 10) == value
}

// writeJSON writes stacks as one indented array.
func writeJSON(w io.Writer, list []*stackInfo) error {
	objects := make([]map[string]any, len(list))
	for i, s := range list {
		objects[i] = jsonStack(s)
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(objects)
}
