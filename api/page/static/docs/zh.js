/** The Chinese of what only the API's documentation says. */
import { chinese } from '../zh.js';

Object.assign(chinese, {
  'The API': '接口',
  operations: '操作',
  'nothing fits': '没有匹配的内容',
  'Base address:': '基础地址：',
  'An API key, where one is asked for, stands in a header:': '需要 API 密钥时，写在请求头中：',
  Parameters: '参数',
  'Request body': '请求正文',
  Answers: '响应',
  required: '必填',
  fields: '字段',
  'any JSON': '任意 JSON',
  error: '错误',
  'in: path': '路径参数',
  'in: query': '查询参数',
  'in: header': '请求头',
});
